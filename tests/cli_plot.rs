//! `shoestring plot`, run as a program.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;

use program::Workspace;
use serde_json::json;
use std::f64::consts::LOG2_E;

/// A line of metrics at `step`, with a training loss, and one of a validation if it is given, in nats/char.
fn line(step: u64, training: f64, validation: Option<f64>, bits_per_nat: f64) -> String {
    let mut line = json!({
        "step": step, "epoch": 0, "tokens": 1280 * step, "seconds": 0.5 * step as f64,
        "tokens_per_second": 2560.0, "loss": 2.5 * training,
        "train_nats_per_char": training, "train_bits_per_byte": bits_per_nat * training,
    });
    if let Some(loss) = validation {
        line["val_nats_per_token"] = json!(2.5 * loss);
        line["val_nats_per_char"] = json!(loss);
        line["val_bits_per_byte"] = json!(bits_per_nat * loss);
    }
    format!("{line}\n")
}

/// Metrics of a run of 200 lines, with a validation at every tenth.
fn metrics(bits_per_nat: f64) -> String {
    let loss = |step: u64| 1.5 + 2.0 / (1.0 + step as f64 / 10.0);
    (1..=200)
        .map(|step| line(step, loss(step) - 0.1, (step % 10 == 0).then(|| loss(step)), bits_per_nat))
        .collect()
}

/// How often a tag is in an SVG.
fn count(svg: &str, tag: &str) -> usize {
    svg.matches(&format!("<{tag} ")).count()
}

#[test]
fn the_curves_of_a_run_are_drawn() {
    let workspace = Workspace::new();
    workspace.train(&["--epochs", "3"]).success();
    let run = workspace.run(&["plot"]).success();
    assert!(run.stdout.is_empty() && run.stderr.contains("curves.svg"), "{run:?}");
    let svg = String::from_utf8(workspace.read("curves.svg")).unwrap();
    for text in ["training tokens", "nats/char", "bits/byte", "checkpoints"] {
        assert!(svg.contains(text), "{text}");
    }
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    let metrics = workspace.metrics("checkpoints/metrics.jsonl");
    let best =
        metrics.iter().filter_map(|line| line["val_nats_per_char"].as_f64()).fold(f64::INFINITY, f64::min);
    assert!(svg.contains(&format!("best {best:.4} nats/char")), "the legend tells the best");
}

#[test]
fn every_validation_is_a_dot_and_every_run_is_in_the_legend() {
    let workspace = Workspace::new();
    workspace.write("one/metrics.jsonl", metrics(LOG2_E));
    workspace.write("two/metrics.jsonl", metrics(LOG2_E));
    workspace.run(&["plot", "one", "two/metrics.jsonl", "--output", "both.svg", "--quiet"]).success();
    let svg = String::from_utf8(workspace.read("both.svg")).unwrap();
    assert!(svg.contains("one: best 1.5952 nats/char") && svg.contains("two: best 1.5952 nats/char"));
    // The dots of 20 validations and one in the legend, of each run; none is above the picture.
    assert_eq!(count(&svg, "circle"), 2 * 21);
    let orange = |svg: &str| svg.matches("stroke=\"#D55E00\"").count();
    assert!(orange(&svg) > 0, "the second run's colour");
    workspace.run(&["plot", "one", "-o", "one.svg", "--over", "steps"]).success();
    let one = String::from_utf8(workspace.read("one.svg")).unwrap();
    assert_eq!(count(&one, "circle"), 21);
    assert!(orange(&one) == 0 && one.contains("steps") && !one.contains("tokens"));
}

#[test]
fn texts_with_other_characters_get_a_panel_for_each_unit() {
    let workspace = Workspace::new();
    workspace.write("ascii/metrics.jsonl", metrics(LOG2_E));
    workspace.write("cyrillic/metrics.jsonl", metrics(0.8));
    workspace.run(&["plot", "ascii", "cyrillic", "-o", "a.svg"]).success();
    let svg = String::from_utf8(workspace.read("a.svg")).unwrap();
    assert_eq!(count(&svg, "circle"), 2 * 2 * 21, "each validation in each unit");
}

#[test]
fn a_run_that_went_back_is_drawn_in_pieces() {
    let workspace = Workspace::new();
    let went_on: String = (50..=80).map(|step| line(step, 2.0, None, LOG2_E)).collect();
    workspace.write("straight/metrics.jsonl", metrics(LOG2_E));
    workspace.write("back/metrics.jsonl", metrics(LOG2_E) + &went_on);
    let lines = |run: &str| {
        workspace.run(&["plot", run, "-o", "a.svg", "--over", "time"]).success();
        count(&String::from_utf8(workspace.read("a.svg")).unwrap(), "polyline")
    };
    assert_eq!(lines("back"), lines("straight") + 1);
}

#[test]
fn a_png_has_the_picture_in_pixels() {
    let workspace = Workspace::new();
    workspace.write("run/metrics.jsonl", metrics(LOG2_E));
    workspace.run(&["plot", "run", "-o", "curves.PNG"]).success();
    let bytes = workspace.read("curves.PNG");
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((frame.width, frame.height, frame.color_type), (1800, 1120, png::ColorType::Rgb));
    let pixels = pixels.as_chunks::<3>().0;
    let blue = pixels.iter().filter(|pixel| **pixel == [0, 114, 178]).count();
    let white = pixels.iter().filter(|pixel| **pixel == [255; 3]).count();
    assert!(blue > 2000, "a curve through the whole picture: {blue}");
    assert!(white * 10 > pixels.len() * 8, "on white: {white}");
    let dark = pixels.iter().filter(|pixel| pixel.iter().all(|&channel| channel < 100)).count();
    assert!(dark > 1000, "with text: {dark}");
}

#[test]
fn what_is_no_run_is_refused_in_one_line() {
    let workspace = Workspace::new();
    workspace.write("empty/metrics.jsonl", "");
    workspace.write("broken/metrics.jsonl", metrics(LOG2_E) + "{\"step\": 5}\n");
    workspace.write("damaged/metrics.jsonl", line(1, 2.0, None, LOG2_E) + "\0\0\0\0\n");
    workspace.write("nothing/metrics.jsonl", "{\"step\":1,\"tokens\":1,\"seconds\":1.0}\n");
    workspace.write("cut/metrics.jsonl", metrics(LOG2_E) + "{\"step\": 5, \"tok");
    let plot = |run: &str| workspace.run(&["plot", run, "-o", "a.svg"]);
    plot("absent").failure(1, &["absent"]);
    plot("").failure(2, &["RUN"]);
    std::fs::create_dir(workspace.path("folder")).unwrap();
    plot("folder").failure(1, &["folder", "metrics.jsonl"]);
    plot("empty").failure(1, &["empty", "metrics.jsonl", "no losses"]);
    plot("nothing").failure(1, &["nothing", "metrics.jsonl", "no losses"]);
    plot("broken").failure(1, &["metrics.jsonl, line 201", "tokens"]);
    plot("damaged").failure(1, &["metrics.jsonl, line 2"]);
    plot("text.txt").failure(1, &["text.txt, line 1"]);
    assert!(!workspace.exists("a.svg"), "nothing is written for what can't be drawn");
    // A line that is being written is not there yet.
    plot("cut").success();

    for output in ["a.jpeg", "svg", "folder"] {
        workspace.run(&["plot", "cut", "-o", output]).failure(2, &[output, ".svg", ".png"]);
    }
    workspace.run(&["plot", "cut", "-o", "absent/a.svg"]).failure(1, &["absent/a.svg"]);
    let over = workspace.run(&["plot", "cut", "--over", "pages"]).code(2);
    assert!(over.stderr.contains("pages") && over.stderr.contains("tokens, steps, time"), "{over:?}");
}

#[test]
fn a_loss_that_was_not_finite_is_left_out() {
    let workspace = Workspace::new();
    let infinite = "{\"step\":201,\"tokens\":257280,\"seconds\":101.0,\"train_nats_per_char\":null,\
        \"train_bits_per_byte\":null}\n";
    workspace.write("run/metrics.jsonl", metrics(LOG2_E) + infinite);
    workspace.run(&["plot", "run"]).success();
    let svg = String::from_utf8(workspace.read("curves.svg")).unwrap();
    assert!(count(&svg, "circle") == 21 && !svg.contains("NaN") && !svg.contains("inf"));
}

#[test]
fn a_picture_does_not_replace_what_it_is_drawn_from() {
    let workspace = Workspace::new();
    workspace.write("metrics.svg", metrics(LOG2_E));
    let before = workspace.read("metrics.svg");
    workspace.run(&["plot", "metrics.svg", "-o", "./metrics.svg"]).failure(2, &["both input and output"]);
    assert!(workspace.read("metrics.svg") == before);
}

#[cfg(unix)]
#[test]
fn control_characters_of_a_name_are_in_no_picture_and_reach_no_terminal() {
    let workspace = Workspace::new();
    workspace.write("a\x1b[31mb/metrics.jsonl", metrics(LOG2_E));
    workspace.run(&["plot", "a\x1b[31mb", "-o", "curves.svg"]).success();
    let svg = String::from_utf8(workspace.read("curves.svg")).unwrap();
    assert!(svg.contains("a\u{fffd}[31mb") && !svg.contains('\x1b'));
    let absent = workspace.run(&["plot", "c\x1b[31md"]).failure(1, &["c^[[31md"]);
    assert!(!absent.stderr.contains('\x1b'));
}
