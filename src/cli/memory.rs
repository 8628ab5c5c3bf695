//! Whether a training run fits into memory, found out before it starts: a run that outgrows the machine is
//! ended by the system without a word.

use super::{UsageError, tell};
use crate::checkpoint::Recipe;
use crate::model::ModelConfig;
use crate::train::training_bytes;
#[cfg(any(target_os = "linux", test))]
use std::path::{Path, PathBuf};

/// What the program takes beside the model and its buffers: its own pages, the tokenizer, tokens, what the heap wastes.
/// Measured: with this the estimate is within 5 % of the resident memory from 46 to 322 MB (256 experts, a vocabulary of
/// 30,000, and each `--size` but the smallest, which takes 21 MB of 23).
const PROGRAM: u64 = 10_500_000;
/// Addresses of a thread's stack.
#[cfg(target_os = "linux")]
const STACK: u64 = 2 << 20;

/// What to do about a model that is too large.
pub const SMALLER_MODEL: &str =
    "choose a smaller --gru-hidden-size, --num-experts, --gru-layers, --embedding-dim or --bpe-vocab-size";

/// Bytes that training on `threads` threads will take; an error if there are not as many, as far as the system tells, or
/// with `force` only a warning. More than this system can address is always an error.
pub fn check(config: &ModelConfig, recipe: &Recipe, threads: usize, force: bool) -> Result<u64, UsageError> {
    let bytes = PROGRAM + training_bytes(config, recipe.batch_size, recipe.seq_length);
    let Some(lack) = lack(bytes, available(threads), usize::MAX as u64) else { return Ok(bytes) };
    if force && lack.can_be_tried {
        tell!("Warning: {}; the system may end it without a word.", lack.message);
        return Ok(bytes);
    }
    let way_out = if lack.can_be_tried { ", or go on all the same with --force" } else { "" };
    let message = lack.message;
    Err(UsageError(format!("{message}; {SMALLER_MODEL}, a smaller --batch-size or --seq-length{way_out}")))
}

/// What speaks against a run.
#[derive(Debug, PartialEq)]
struct Lack {
    message: String,
    can_be_tried: bool,
}

/// What speaks against taking `bytes`, of which as many are `available`, if that is known.
fn lack(bytes: u64, available: Option<u64>, addressable: u64) -> Option<Lack> {
    let needed = size(bytes);
    if bytes > addressable {
        let message = format!("training needs about {needed} of memory, more than this system can address");
        return Some(Lack { message, can_be_tried: false });
    }
    let available = size(available.filter(|&available| bytes > available)?);
    let message = format!("training needs about {needed} of memory, {available} are free");
    Some(Lack { message, can_be_tried: true })
}

/// Under a limit on the address space (`ulimit -v`), makes the most of it.
///
/// glibc gives every thread a heap of its own and reserves 64 MB of addresses for it, be it ever so empty, which may
/// be all there is. It can be told not to only by the environment a process starts with. So the program starts over,
/// once; if that fails, things stay as they are.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn spare_address_space() {
    use std::os::unix::process::CommandExt;
    const HEAPS: &str = "MALLOC_ARENA_MAX";
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if soft_limit(&limits, ADDRESS_SPACE).is_none() || std::env::var_os(HEAPS).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    if let (Some(name), Ok(program)) = (arguments.next(), std::env::current_exe()) {
        let _ = std::process::Command::new(program).arg0(name).args(arguments).env(HEAPS, "1").exec();
    }
}

/// Bytes this process can still get, of the machine, of its control groups and under its limits, where `threads` stacks
/// count although little of them is used; none where the system does not say.
#[cfg(target_os = "linux")]
pub fn available(threads: usize) -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let text = |path: &str| read(Path::new(path)).unwrap_or_default();
    let groups = groups(&text("/proc/self/cgroup"));
    let of_groups = groups.iter().filter_map(|group| group.unused(read));
    let (limits, status) = (text("/proc/self/limits"), text("/proc/self/status"));
    let of_limits = under_limits(&limits, &status).map(|bytes| bytes.saturating_sub(threads as u64 * STACK));
    unused(&text("/proc/meminfo")).into_iter().chain(of_groups).chain(of_limits).min()
}

#[cfg(not(target_os = "linux"))]
pub fn available(_threads: usize) -> Option<u64> {
    None
}

/// Memory and swap that `/proc/meminfo` shows as free or reclaimable, in bytes.
#[cfg(any(target_os = "linux", test))]
fn unused(meminfo: &str) -> Option<u64> {
    Some(field(meminfo, "MemAvailable:")? + field(meminfo, "SwapFree:").unwrap_or(0))
}

/// Bytes of a line such as `VmSize:   1000 kB`.
#[cfg(any(target_os = "linux", test))]
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// What the soft limits in `/proc/self/limits` leave of the address space (`ulimit -v`) and of the data
/// (`ulimit -d`), in bytes.
#[cfg(any(target_os = "linux", test))]
fn under_limits<'a>(limits: &'a str, status: &'a str) -> impl Iterator<Item = u64> + 'a {
    let used = [(ADDRESS_SPACE, "VmSize:"), ("Max data size", "VmData:")];
    used.into_iter().filter_map(move |(limit, used)| {
        Some(soft_limit(limits, limit)?.saturating_sub(field(status, used)?))
    })
}

#[cfg(any(target_os = "linux", test))]
const ADDRESS_SPACE: &str = "Max address space";

/// The soft limit of that name in `/proc/self/limits`, in bytes, if there is one.
#[cfg(any(target_os = "linux", test))]
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A control group, of either version.
#[cfg(any(target_os = "linux", test))]
#[derive(Debug, PartialEq)]
struct Group {
    folder: PathBuf,
    is_first_version: bool,
}

/// The control groups in `/proc/self/cgroup` that may limit memory, and the groups around them.
#[cfg(any(target_os = "linux", test))]
fn groups(processes: &str) -> Vec<Group> {
    let groups = |line: &str| -> Option<Vec<Group>> {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_first_version = !controllers.is_empty();
        if is_first_version && !controllers.split(',').any(|it| it == "memory") {
            return None;
        }
        let root = Path::new(if is_first_version { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" });
        let groups = Path::new(path.trim_start_matches('/')).ancestors();
        Some(groups.map(|group| Group { folder: root.join(group), is_first_version }).collect())
    };
    processes.lines().filter_map(groups).flatten().collect()
}

#[cfg(any(target_os = "linux", test))]
impl Group {
    /// Bytes that its limit leaves, if it has one: those of files in the page cache can be had back.
    fn unused(&self, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
        let (limits, usage, cached) = if self.is_first_version {
            let cached = ["total_active_file ", "total_inactive_file "];
            (&["memory.limit_in_bytes"][..], "memory.usage_in_bytes", cached)
        } else {
            (&["memory.max", "memory.high"][..], "memory.current", ["active_file ", "inactive_file "])
        };
        let number = |file: &str| read(&self.folder.join(file))?.trim().parse::<u64>().ok();
        let limit = limits.iter().filter_map(|file| number(file)).min()?;
        let stat = read(&self.folder.join("memory.stat")).unwrap_or_default();
        let lines = stat.lines().filter_map(|line| cached.iter().find_map(|name| line.strip_prefix(name)));
        let cached: u64 = lines.filter_map(|bytes| bytes.trim().parse::<u64>().ok()).sum();
        Some(limit.saturating_sub(number(usage).unwrap_or(0).saturating_sub(cached)))
    }
}

pub fn size(bytes: u64) -> String {
    let gigabytes = bytes as f64 / 1e9;
    if gigabytes < 1.0 { format!("{:.0} MB", bytes as f64 / 1e6) } else { format!("{gigabytes:.1} GB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_in_bytes() {
        let meminfo = "MemTotal:       24684096 kB\nMemAvailable:   1000 kB\nSwapFree:  24 kB\n";
        assert_eq!(unused(meminfo), Some(1024 * 1024));
        assert_eq!(unused("MemAvailable:   1000 kB\n"), Some(1000 * 1024));
        assert_eq!(unused("MemTotal:       24684096 kB\n"), None);
    }

    #[test]
    fn limits_of_a_group_and_of_those_around_it_count() {
        let expected = [
            ("/sys/fs/cgroup/memory/a/b", true),
            ("/sys/fs/cgroup/memory/a", true),
            ("/sys/fs/cgroup/memory", true),
            ("/sys/fs/cgroup/c", false),
            ("/sys/fs/cgroup", false),
        ];
        let expected =
            expected.map(|(folder, is_first_version)| Group { folder: folder.into(), is_first_version });
        assert_eq!(groups("3:cpuset:/\n2:cpu,memory:/a/b\n0::/c\nnonsense\n"), expected);
    }

    #[test]
    fn a_group_leaves_its_limit_less_what_is_used_and_not_cache() {
        let unused = |is_first_version, files: &[(&str, &str)]| {
            let read = |path: &Path| {
                let name = path.strip_prefix("/group").ok()?.to_str()?;
                files.iter().find(|file| file.0 == name).map(|file| file.1.to_owned())
            };
            Group { folder: "/group".into(), is_first_version }.unused(read)
        };
        let stat = "cache 9\ninactive_file 7\ntotal_inactive_file 100\ntotal_active_file 20\n";
        let mut first = vec![("memory.limit_in_bytes", "1000\n"), ("memory.usage_in_bytes", "400\n")];
        assert_eq!(unused(true, &first), Some(600));
        first.push(("memory.stat", stat));
        assert_eq!(unused(true, &first), Some(720));
        assert_eq!(
            unused(true, &[("memory.limit_in_bytes", "100"), ("memory.usage_in_bytes", "400")]),
            Some(0)
        );
        let stat = "anon 200\nactive_file 30\ninactive_file 70\n";
        let mut second = vec![("memory.max", "max\n"), ("memory.current", "400\n"), ("memory.stat", stat)];
        assert_eq!(unused(false, &second), None);
        second.push(("memory.high", "900\n"));
        assert_eq!(unused(false, &second), Some(600));
        second[0].1 = "700\n";
        assert_eq!(unused(false, &second), Some(400));
    }

    #[test]
    fn limits_of_the_process_leave_what_it_does_not_use() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max data size             unlimited            unlimited            bytes     \n\
            Max address space         10240000             unlimited            bytes     \n";
        let status = "Name:\tshoestring\nVmSize:\t    1000 kB\nVmData:\t     200 kB\n";
        assert_eq!(under_limits(limits, status).collect::<Vec<_>>(), [10_240_000 - 1_024_000]);
        let limits = limits.replace("unlimited            unlimited", "204801               unlimited");
        assert_eq!(under_limits(&limits, status).collect::<Vec<_>>(), [9_216_000, 1]);
        assert_eq!(under_limits("", "").count(), 0);
    }

    #[test]
    fn what_cannot_be_addressed_cannot_be_tried() {
        let of_32_bits = u64::from(u32::MAX);
        assert_eq!(lack(1000, Some(1000), of_32_bits), None);
        assert_eq!(lack(1 << 40, None, u64::MAX), None);
        let tried = |bytes, available| lack(bytes, available, of_32_bits).map(|lack| lack.can_be_tried);
        assert_eq!(tried(1001, Some(1000)), Some(true));
        assert_eq!(tried(1 << 32, Some(1 << 40)), Some(false));
        assert_eq!(tried(1 << 32, None), Some(false));
    }
}
