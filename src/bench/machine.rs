//! What the operating system says of this machine.

use serde::Serialize;
use std::path::Path;
use std::{fs, io};

/// A machine, as far as its system describes it.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name; on boards whose processor has none, the board's.
    pub cpu: Option<String>,
    /// Data caches of the first core, smallest first; none where the system does not say.
    pub caches: Vec<Cache>,
    /// Cores.
    pub physical_cores: usize,
    /// Hardware threads.
    pub logical_cores: usize,
    /// Hardware threads that this process may use, as its affinity and its control group allow.
    pub usable_cores: usize,
}

/// A cache that holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// 1 is nearest to the core.
    pub level: u8,
    /// Its size.
    pub bytes: usize,
    /// Hardware threads that share it.
    pub shared_by: usize,
}

impl Machine {
    /// This machine.
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let usable_cores = num_cpus::get();
        Machine {
            cpu: model_name(&cpuinfo).or_else(board),
            caches: caches(Path::new("/sys/devices/system/cpu/cpu0/cache")).unwrap_or_default(),
            physical_cores: num_cpus::get_physical(),
            logical_cores: logical(&cpuinfo).max(usable_cores),
            usable_cores,
        }
    }
}

/// The name in `/proc/cpuinfo`, which has it on x86.
fn model_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What the device tree of an ARM board calls it.
fn board() -> Option<String> {
    let name = fs::read_to_string("/proc/device-tree/model").ok()?;
    Some(name.trim_end_matches('\0').to_owned())
}

fn logical(cpuinfo: &str) -> usize {
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count()
}

/// The caches described in a folder such as `/sys/devices/system/cpu/cpu0/cache`.
fn caches(folder: &Path) -> io::Result<Vec<Cache>> {
    let mut caches = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let read = |name| Some(fs::read_to_string(path.join(name)).ok()?.trim().to_owned());
        let cache = || {
            let level = read("level")?.parse().ok()?;
            let holds_data = read("type")? != "Instruction";
            let shared_by = count(&read("shared_cpu_list")?)?;
            holds_data.then_some(Cache { level, bytes: size(&read("size")?)?, shared_by })
        };
        caches.extend(cache());
    }
    caches.sort_by_key(|cache| cache.level);
    Ok(caches)
}

/// Bytes of a size such as `48K` or `32M`.
fn size(text: &str) -> Option<usize> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

/// How many numbers a list such as `0-3,8-11` holds.
fn count(list: &str) -> Option<usize> {
    let range = |range: &str| -> Option<usize> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(last.checked_sub(first)? + 1)
    };
    list.split(',').map(range).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_those_for_data_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let index = |name: &str, level: &str, kind: &str, size: &str, cpus: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            for (file, value) in [("level", level), ("type", kind), ("size", size), ("shared_cpu_list", cpus)]
            {
                fs::write(path.join(file), format!("{value}\n")).unwrap();
            }
        };
        index("index0", "3", "Unified", "32768K", "0-3,8-11");
        index("index1", "1", "Data", "48K", "0,8");
        index("index2", "1", "Instruction", "32K", "0,8");
        index("index3", "2", "Unified", "", "0"); // as some virtual machines have it
        fs::write(folder.path().join("uevent"), "").unwrap();
        let expected = [
            Cache { level: 1, bytes: 48 << 10, shared_by: 2 },
            Cache { level: 3, bytes: 32 << 20, shared_by: 8 },
        ];
        assert_eq!(caches(folder.path()).unwrap(), expected);
        assert!(caches(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn sizes_have_units() {
        let cases = [("512", Some(512)), ("48K", Some(49_152)), ("1M", Some(1 << 20)), ("1G", None)];
        for (text, bytes) in cases.into_iter().chain([("", None), ("0K", None), ("K", None), ("-1K", None)]) {
            assert_eq!(size(text), bytes, "{text}");
        }
        assert_eq!((count("3"), count("5-2"), count("x")), (Some(1), None, None));
    }

    #[test]
    fn names_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A CPU: fast\nprocessor\t: 1\nmodel name\t: B\n";
        assert_eq!(model_name(cpuinfo).as_deref(), Some("A CPU: fast"));
        assert_eq!(logical(cpuinfo), 2);
        assert_eq!(model_name("processor : 0\nCPU part : 0xd08\n"), None);
    }
}
