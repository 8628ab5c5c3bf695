//! `bench`: what it prints and how it is told what to measure. How fast anything is decides nothing here.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_model.rs"]
mod small_model;

use program::{Finished, Workspace};
use serde_json::Value;
use shoestring::kernels::Kernels;

/// Holds a value to be a number above 0, and finite: JSON has no others, but `null` is none.
#[track_caller]
fn positive(value: &Value) -> f64 {
    let number = value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"));
    assert!(number > 0.0 && number.is_finite(), "{number}");
    number
}

fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is not an array"))
}

fn names(kernels: &Value) -> Vec<&str> {
    array(kernels).iter().map(|kernels| kernels["name"].as_str().unwrap()).collect()
}

#[track_caller]
fn check_peaks(peaks: &Value) {
    positive(&peaks["gflops"]);
    let reads = array(&peaks["reads"]);
    assert!(reads.len() >= 2, "{reads:?}");
    for read in reads {
        positive(&read["gb_per_s"]);
        positive(&read["bytes"]);
    }
    let sizes: Vec<u64> = reads.iter().map(|read| read["bytes"].as_u64().unwrap()).collect();
    assert!(sizes.is_sorted(), "{sizes:?}");
}

#[track_caller]
fn check_operation(operation: &Value) {
    positive(&operation["seconds"]);
    let rates = ["gflops", "gb_per_s", "elements_per_ns"].map(|rate| &operation[rate]);
    let given: Vec<_> = rates.into_iter().filter(|rate| !rate.is_null()).collect();
    assert_eq!(given.len(), 1, "{operation}");
    positive(given[0]);
    if !operation["gflops"].is_null() {
        assert_eq!(operation["peak"], "multiply-add");
    }
    assert_eq!(operation["share"].is_null(), operation["peak"].is_null(), "{operation}");
    if !operation["share"].is_null() {
        positive(&operation["share"]);
    }
}

#[test]
fn json_has_all_kernels_with_their_peaks_operations_and_the_chosen_ones_model() {
    let workspace = Workspace::new();
    let mut command = workspace.command(&["bench", "--quick", "--json"]);
    let run = Finished::from(command.env_remove("SHOESTRING_KERNEL").output().unwrap()).success();
    assert_eq!(run.stderr, "");
    let report = run.json();
    let available: Vec<&str> = Kernels::available().iter().map(|kernels| kernels.name()).collect();
    assert_eq!(names(&report["available"]), available);
    assert_eq!(names(&report["kernels"]), available);
    assert_eq!((&report["chosen"], &report["chosen_by"]), (&available[0].into(), &"best".into()));
    for count in ["physical_cores", "logical_cores", "usable_cores"] {
        positive(&report["machine"][count]);
    }
    for kernels in array(&report["kernels"]) {
        check_peaks(&kernels["peaks"]);
        let operations = array(&kernels["operations"]);
        operations.iter().for_each(check_operation);
        for name in [
            "gemm",
            "gemm_f16",
            "gemm_q8",
            "gemm_q4",
            "weight_gradient",
            "cell_forward",
            "cell_backward",
            "gelu",
            "adamw",
        ] {
            assert!(operations.iter().any(|operation| operation["operation"] == name), "{name}");
        }
        let chosen = kernels["name"] == report["chosen"];
        assert_eq!(array(&kernels["training"]).is_empty(), !chosen);
        assert_eq!(array(&kernels["decoding"]).is_empty(), !chosen);
        for training in array(&kernels["training"]) {
            positive(&training["tokens_per_second"]);
            positive(&training["share"]);
        }
        if chosen {
            assert_eq!(kernels["training"][0]["threads"], 1);
            let decoding = array(&kernels["decoding"]);
            let kinds: Vec<_> =
                decoding.iter().map(|decoding| decoding["weights"].as_str().unwrap()).collect();
            assert_eq!(kinds, ["f32", "f16", "q8", "q4"]);
            for decoding in decoding {
                for value in
                    ["tokens_per_second", "layers_us", "prompt_tokens_per_second", "bytes", "gb_per_s"]
                {
                    positive(&decoding[value]);
                }
            }
        }
    }
}

#[test]
fn forced_kernels_are_the_only_ones_measured_and_the_table_fits_80_columns() {
    let workspace = Workspace::new();
    let by_flag = workspace.run(&["bench", "--quick", "--kernel", "wide"]).success();
    assert_eq!(by_flag.stderr, "");
    for part in
        ["chosen    wide, by --kernel\n", "wide, peaks of one core", "  training ", "  decoding ", "GFLOP/s"]
    {
        assert!(by_flag.stdout.contains(part), "{part:?} is not in {}", by_flag.stdout);
    }
    assert_eq!(by_flag.stdout.matches("peaks of one core").count(), 1, "{}", by_flag.stdout);
    // The names of CPU and kernels are as long as they are.
    let table = by_flag.stdout.lines().skip_while(|line| !line.ends_with("peaks of one core"));
    for line in table {
        assert!(line.len() <= 80 && line == line.trim_end(), "{line:?}");
    }
    let mut command = workspace.command(&["bench", "--quick", "--json"]);
    let by_variable =
        Finished::from(command.env("SHOESTRING_KERNEL", "wide").output().unwrap()).success().json();
    assert_eq!(names(&by_variable["kernels"]), ["wide"]);
    assert_eq!(by_variable["chosen_by"], "SHOESTRING_KERNEL");
}

#[test]
fn a_given_model_is_decoded_on_one_thread_and_on_all() {
    let workspace = Workspace::new();
    small_model::save_model(&workspace.path("model.shoe"), small_model::SMALL, true);
    let arguments = ["bench", "--quick", "--json", "--checkpoint", "model.shoe"];
    let report = workspace.run(&arguments).success().json();
    assert_eq!(report["model"]["vocabulary"], small_model::SMALL.vocabulary);
    let chosen =
        array(&report["kernels"]).iter().find(|kernels| kernels["name"] == report["chosen"]).unwrap();
    assert!(array(&chosen["training"]).is_empty());
    let decoding = array(&chosen["decoding"]);
    let mut threads: Vec<_> = decoding.iter().map(|decoding| decoding["threads"].as_u64().unwrap()).collect();
    threads.dedup();
    let cores = |name: &str| report["machine"][name].as_u64().unwrap();
    let cores = cores("physical_cores").min(cores("usable_cores"));
    assert_eq!(threads, if cores > 1 { vec![1, cores] } else { vec![1] });
    for decoding in decoding {
        positive(&decoding["long_prompt_tokens_per_second"]);
    }
    workspace.run(&["bench", "--checkpoint", "absent.shoe"]).failure(1, &["absent.shoe"]);
}

#[test]
fn unknown_kernels_are_refused() {
    let workspace = Workspace::new();
    workspace.run(&["bench", "--kernel", "nosuch"]).failure(2, &["there is no kernel 'nosuch'", "scalar"]);
    workspace.run(&["bench", "--kernel"]).code(2);
}
