//! Disks without room.

use super::*;

#[test]
fn on_a_full_disk_training_goes_on_and_saves_when_there_is_room_again() {
    let workspace = Workspace::new();
    let arguments = [&CONSTANT[..], &["--dropout", "0.1", "--minutes", "5", "--save-every", "0.1s"]].concat();
    let program = Running::start(&mut workspace.command(&tiny_training(&arguments)));
    let limit_files = |bytes: &str| {
        let (pid, limit) = (program.child.id().to_string(), format!("--fsize={bytes}:unlimited"));
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    wait_for("a second checkpoint", || {
        workspace.newest("checkpoints").is_some_and(|newest| newest.as_str() > "checkpoints/step-00000000")
    });
    // No file may grow beyond this, be it a checkpoint or the metrics.
    limit_files("100");
    program.wait_until_said("cannot save checkpoints/step-");
    program.wait_until_said("cannot write to metrics.jsonl");
    let before = workspace.newest("checkpoints").unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(workspace.newest("checkpoints").unwrap(), before);
    all_checkpoints_open(&workspace, "checkpoints");
    assert!(!workspace.list("checkpoints").iter().any(|name| name.ends_with(".tmp")));

    limit_files("unlimited");
    let newer = || workspace.newest("checkpoints").filter(|newest| *newest > before).is_some();
    wait_for("another checkpoint", newer);
    let lines = || workspace.read("checkpoints/metrics.jsonl").iter().filter(|&&byte| byte == b'\n').count();
    let logged = lines();
    wait_for("another line", || lines() > logged);
    let said = program.end("TERM", 130);
    assert!(
        said.contains("File too large (os error 27). The next save will be tried all the same."),
        "{said}"
    );
    assert_eq!(said.matches("cannot write to metrics.jsonl").count(), 1, "{said}");
    metrics_are_whole(&workspace, "checkpoints", false);

    let last = workspace.newest("checkpoints").unwrap();
    let steps = workspace.inspect(&last)["step"].to_string();
    let whole = [&CONSTANT[..], &["--dropout", "0.1", "--checkpoint-dir", "whole", "--steps", &steps]];
    workspace.train(&whole.concat()).success();
    assert!(workspace.weights(&workspace.newest("whole").unwrap()) == workspace.weights(&last));
}

#[test]
fn a_run_whose_last_save_fails_names_the_model_it_made() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "2"]).success();
    let resumable = workspace.read("checkpoints/step-00000002.shoe").len();
    let model = workspace.read("checkpoints/best.shoe").len();
    let between = (resumable + model) / 2 / 1024;
    assert!(model / 1024 < between && between < resumable / 1024);
    let resumed =
        ["train", "--checkpoint", "checkpoints/step-00000002.shoe", "--steps", "20", "--quiet", "--no-chat"];
    with_little_disk(&workspace, between, &resumed).failure(
        1,
        &[
            "cannot save checkpoints/step-00000020.shoe",
            "raise the limit on a file's size",
            "The model of step 20 is saved, in checkpoints/best.shoe",
            "shoestring train --checkpoint checkpoints/step-00000002.shoe",
        ],
    );
    assert_eq!(workspace.inspect("checkpoints/best.shoe")["step"], 20);
}

/// Runs the program where no file may grow beyond `kibibytes`.
fn with_little_disk(workspace: &Workspace, kibibytes: usize, arguments: &[&str]) -> Finished {
    let mut command = Command::new("bash");
    let limit = format!("ulimit -f {kibibytes}; exec \"$0\" \"$@\"");
    command.args(["-c", &limit, env!("CARGO_BIN_EXE_shoestring")]).args(arguments);
    Finished::from(command.current_dir(workspace.path("")).output().unwrap())
}

#[test]
fn on_a_full_disk_nothing_half_written_is_left_and_earlier_files_stay() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "3"]).success();
    workspace.run(&["export", "checkpoints/best.shoe", "exported"]).success();
    let model = "checkpoints/best.shoe";
    let commands: [(&[&str], &str); 6] = [
        (&["quantize", model, "out/quantized", "--to", "f32", "--eval-data", "text.txt"], "quantized"),
        (&["import", "exported", "-o", "out/imported"], "imported"),
        (&["export", model, "out"], "model.safetensors"),
        (
            &["tokenizer", "train", "--data", "text.txt", "--vocab-size", "300", "--out", "out/trained"],
            "trained",
        ),
        (&["tokenizer", "export", model, "--out", "out/tokenizer"], "tokenizer"),
        (&["tokenizer", "import", "exported/tokenizer.json", "-o", "out/tokenizer"], "tokenizer"),
    ];
    for (arguments, file) in commands {
        // Nothing but a file of its kind is replaced.
        let mut earlier = workspace.read(match arguments[0] {
            "quantize" | "import" => model,
            "export" => "exported/model.safetensors",
            _ => "exported/tokenizer.json",
        });
        if arguments[0] == "export" {
            // Not what would be written.
            earlier.extend(b"longer");
        }
        workspace.write(&format!("out/{file}"), &earlier);
        with_little_disk(&workspace, 1, arguments).failure(1, &[&format!("out/{file}"), "File too large"]);
        assert_eq!(workspace.list("out"), [file], "{arguments:?}");
        assert!(workspace.read(&format!("out/{file}")) == earlier, "{arguments:?}");
        fs::remove_dir_all(workspace.path("out")).unwrap();
    }
    // Room for the tokenizer only, which is not put beside weights that are not there. Or the other way round.
    let sizes =
        ["model.safetensors", "tokenizer.json"].map(|name| workspace.read(&format!("exported/{name}")).len());
    let between = sizes.iter().sum::<usize>() / 2 / 1024;
    assert!(sizes.iter().any(|size| size / 1024 < between) && sizes.iter().any(|size| size / 1024 > between));
    with_little_disk(&workspace, between, &["export", model, "out"]).failure(1, &["out/", "File too large"]);
    assert!(!workspace.exists("out"));
    with_little_disk(&workspace, 1, &["man", "out"]).failure(1, &["out/", "File too large"]);
    assert!(!workspace.exists("out"));
}

/// Everything that prints a result says so if it can't.
#[test]
fn results_that_cannot_be_printed_are_an_error() {
    let workspace = Workspace::new();
    workspace.train(&["--steps", "3"]).success();
    let model = "checkpoints/best.shoe";
    let commands: [&[&str]; 10] = [
        &["generate", "--prompt", "Hello", "--max-tokens", "9", "--ignore-eos"],
        &["generate", "--prompt", "Hello", "--max-tokens", "9", "--ignore-eos", "--json"],
        &["chat", "--checkpoint", model],
        &["eval", "--checkpoint", model, "--data", "text.txt"],
        &["eval", "--checkpoint", model, "--data", "text.txt", "--json"],
        &["inspect", model],
        &["inspect", model, "--json"],
        &["tokenizer", "encode", "--tokenizer", model],
        &["tokenizer", "decode", "--tokenizer", model],
        &["quantize", model, "small.shoe", "--to", "q8", "--eval-data", "text.txt", "--max-loss", "9"],
    ];
    for arguments in commands {
        let input = if arguments[1] == "decode" { "70 71 72" } else { "Hello" };
        workspace.write("input", input);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let input = File::open(workspace.path("input")).unwrap();
        let mut command = workspace.command(&[arguments, &["--quiet"]].concat());
        let output = command.stdin(input).stdout(full).output().unwrap();
        let told = Finished::from(output)
            .failure(1, &["cannot write to standard output", "No space left on device"])
            .stderr;
        assert_eq!(told.contains("small.shoe is written"), workspace.exists("small.shoe"), "{told}");
    }
}
