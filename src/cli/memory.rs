//! Whether a training run fits into memory, found out before it starts: a run that outgrows the machine is
//! ended by the system without a word.

use super::UsageError;
use crate::checkpoint::Recipe;
use crate::model::ModelConfig;
use crate::reference::shapes;
use shoestring_kernels::padded;
#[cfg(target_os = "linux")]
use std::fs;
#[cfg(any(target_os = "linux", test))]
use std::path::{Path, PathBuf};

/// Copies of the parameters: weights, gradient, two moments, transposed weights; and while saving weights and
/// moments once more.
const COPIES: u64 = 8;

/// Bytes that training will take, of which the text takes none; an error if there are not as many, as far as the system tells.
pub fn check(config: &ModelConfig, recipe: &Recipe) -> Result<u64, UsageError> {
    let needed = training_bytes(config, recipe.batch_size, recipe.seq_length);
    match available() {
        Some(available) if needed > available => Err(UsageError(format!(
            "training needs about {} of memory, {} are free; choose a smaller --gru-hidden-size, --num-experts, \
             --gru-layers, --embedding-dim, --bpe-vocab-size, --batch-size or --seq-length",
            size(needed),
            size(available)
        ))),
        _ => Ok(needed),
    }
}

/// Bytes that training takes at least: the parameters' copies, and the activations of a chunk.
fn training_bytes(config: &ModelConfig, batch_size: usize, seq_length: usize) -> u64 {
    let elements = |shape: &[usize]| shape.iter().map(|&dimension| dimension as u64).product::<u64>();
    let parameters: u64 = shapes(config).iter().map(|(_, shape)| elements(shape)).sum();
    let rows = batch_size as u64 * seq_length as u64;
    let (embedding, hidden) = (padded(config.embedding) as u64, padded(config.hidden) as u64);
    // Update gate, candidate and state of the active experts; the sum and the output of the layer.
    let (active, widest) = (config.top_k as u64, embedding.max(hidden));
    let layer = 3 * active * hidden + 2 * hidden;
    // Inputs gathered for the active experts, and the gradients of their outputs and inputs.
    let inputs = embedding + (config.layers as u64 - 1) * hidden;
    let gathered = if config.top_k < config.experts { active * (inputs + hidden + widest) } else { 0 };
    // The embedding, and gradients of a layer's input and output.
    let activations = rows * (config.layers as u64 * layer + gathered + embedding + 2 * widest);
    size_of::<f32>() as u64 * (COPIES * parameters + activations)
}

/// Bytes this process can still get; none where the system does not say.
#[cfg(target_os = "linux")]
pub fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| unused(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse().ok();
    limit_files(&groups).into_iter().filter_map(limit).chain(machine).min()
}

#[cfg(not(target_os = "linux"))]
pub fn available() -> Option<u64> {
    None
}

/// Memory and swap that `/proc/meminfo` shows as free or reclaimable, in bytes.
#[cfg(any(target_os = "linux", test))]
fn unused(meminfo: &str) -> Option<u64> {
    let kibibytes = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some((kibibytes("MemAvailable:")? + kibibytes("SwapFree:").unwrap_or(0)) * 1024)
}

/// Files that may hold a memory limit of the control groups in `/proc/self/cgroup`, of either version, and of
/// the groups around them.
#[cfg(any(target_os = "linux", test))]
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let files = |line: &str| -> Option<Vec<PathBuf>> {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|it| it == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let groups = Path::new(path.trim_start_matches('/')).ancestors();
        Some(groups.map(|group| Path::new(root).join(group).join(file)).collect())
    };
    groups.lines().filter_map(files).flatten().collect()
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
        let files = limit_files("3:cpuset:/\n2:cpu,memory:/a/b\n0::/c\nnonsense\n");
        let expected = [
            "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/c/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
    }

    #[test]
    fn the_largest_sizes_are_counted_without_overflow() {
        let largest = ModelConfig {
            vocabulary: 1 << 20,
            embedding: 1 << 14,
            hidden: 1 << 14,
            layers: 64,
            experts: 256,
            top_k: 256,
            tied: false,
            eps_rmsnorm: 1e-5,
        };
        assert!(training_bytes(&largest, 4096, 65_536) > 1 << 59);
        let small = ModelConfig {
            vocabulary: 850,
            embedding: 96,
            hidden: 96,
            layers: 2,
            experts: 6,
            top_k: 6,
            ..largest
        };
        // 499,486 parameters, and two layers of 1280 rows with 6 experts of width 96.
        let bytes = training_bytes(&small, 16, 80);
        assert!((30_000_000..50_000_000).contains(&bytes), "{bytes}");
    }
}
