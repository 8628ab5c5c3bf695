//! `shoestring export` and `import`: the same bytes again, and every mistake of a file told at once.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_model.rs"]
mod small_model;

use half::{bf16, f16};
use program::{Finished, Workspace};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use shoestring::Model;
use shoestring::model::ModelConfig;
use small_model::{SMALL, save_model, save_resumable};
use std::collections::{BTreeMap, HashMap};

/// A safetensors file to be changed and written again.
#[derive(Clone)]
struct File {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl File {
    fn read(bytes: &[u8]) -> Self {
        let file = SafeTensors::deserialize(bytes).unwrap();
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let tensor =
            |tensor: TensorView<'_>| (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec());
        let tensors = file.tensors().into_iter().map(|(name, view)| (name, tensor(view))).collect();
        File { tensors, metadata: header.metadata().clone().unwrap_or_default() }
    }

    fn write(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, (dtype, shape, data))| {
            (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        safetensors::serialize(views, Some(self.metadata.clone())).unwrap()
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.tensors[name].2.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    /// Replaces every tensor's numbers by what `convert` makes of them.
    fn convert<const N: usize>(&mut self, to: Dtype, convert: impl Fn(f32) -> [u8; N]) {
        for (dtype, _, data) in self.tensors.values_mut() {
            *data = data.as_chunks().0.iter().flat_map(|&bytes| convert(f32::from_le_bytes(bytes))).collect();
            *dtype = to;
        }
    }
}

/// A workspace with a model in it, exported to `exported`.
fn exported(config: ModelConfig) -> (Workspace, File) {
    let workspace = Workspace::new();
    save_model(&workspace.path("model.shoe"), config, true);
    let file = File::read(&workspace.weights("model.shoe"));
    (workspace, file)
}

/// Imports `file` with the exported tokenizer.
fn import(workspace: &Workspace, file: &File) -> Finished {
    workspace.write("exported/model.safetensors", file.write());
    workspace.run(&["import", "exported", "-o", "imported.shoe", "--quiet"])
}

#[test]
fn there_and_back_gives_the_same_bytes() {
    let tied = ModelConfig { embedding: 16, tied: true, ..SMALL };
    for config in [
        SMALL,
        tied,
        ModelConfig { top_k: 1, eps_rmsnorm: 1e-6, ..tied },
        ModelConfig { tied: false, ..tied },
    ] {
        for dialogue in [true, false] {
            let workspace = Workspace::new();
            save_model(&workspace.path("model.shoe"), config, dialogue);
            workspace.run(&["export", "model.shoe", "first"]).success();
            let import = workspace.run(&["import", "first", "-o", "imported.shoe"]).success();
            assert_eq!(import.stdout, "");
            workspace.run(&["export", "imported.shoe", "second/folder"]).success();
            assert_eq!(workspace.list("first"), ["model.safetensors", "tokenizer.json"]);
            for file in ["model.safetensors", "tokenizer.json"] {
                assert!(
                    workspace.read(&format!("first/{file}"))
                        == workspace.read(&format!("second/folder/{file}"))
                );
            }
            let [before, after] =
                ["model.shoe", "imported.shoe"].map(|name| Model::open(workspace.path(name)).unwrap());
            assert_eq!(before.config(), after.config());
            assert!(before.weights().lines == after.weights().lines);
            assert_eq!(before.tokenizer().to_owned(), after.tokenizer().to_owned());
            assert_eq!(after.checkpoint().record().dialogue, dialogue);
            let shown = workspace.run(&["inspect", "imported.shoe"]).success().stdout;
            assert!(shown.contains("imported"), "{shown}");
        }
    }
}

#[test]
fn a_training_checkpoint_exports_its_model() {
    let workspace = Workspace::new();
    save_resumable(&workspace.path("run.shoe"), SMALL);
    save_model(&workspace.path("model.shoe"), SMALL, true);
    assert!(workspace.weights("run.shoe") == workspace.weights("model.shoe"));
}

#[test]
fn the_metadata_says_how_to_run_the_model() {
    let (_, file) = exported(ModelConfig { eps_rmsnorm: 1e-4, ..SMALL });
    let expected = [
        ("vocabulary", "300"),
        ("embedding_dim", "12"),
        ("gru_hidden_size", "16"),
        ("gru_layers", "2"),
        ("num_experts", "3"),
        ("top_k", "2"),
        ("tied", "false"),
        ("eps_rmsnorm", "0.0001"),
        ("dialogue", "true"),
    ];
    for (key, value) in expected {
        assert_eq!(file.metadata.get(key).map(String::as_str), Some(value), "{key}");
    }
}

#[test]
fn shapes_say_what_metadata_does_not() {
    let tied = ModelConfig { embedding: 16, tied: true, top_k: 3, ..SMALL };
    for config in [ModelConfig { top_k: 3, ..SMALL }, tied] {
        let (workspace, mut file) = exported(config);
        file.metadata.clear();
        import(&workspace, &file).success();
        assert_eq!(Model::open(workspace.path("imported.shoe")).unwrap().config(), config);
    }
}

#[test]
fn half_and_double_precision_are_read() {
    let (workspace, original) = exported(SMALL);
    let halves = |bits: fn(f32) -> f32| -> BTreeMap<String, Vec<f32>> {
        let names = original.tensors.keys();
        names.map(|name| (name.clone(), original.values(name).into_iter().map(bits).collect())).collect()
    };
    let check = |file: &File, expected: BTreeMap<String, Vec<f32>>| {
        import(&workspace, file).success();
        let imported = File::read(&workspace.weights("imported.shoe"));
        for (name, values) in expected {
            assert!(imported.values(&name) == values, "{name}");
        }
    };
    let mut file = original.clone();
    file.convert(Dtype::F64, |value| f64::from(value).to_le_bytes());
    check(&file, halves(|value| value));
    let mut file = original.clone();
    file.convert(Dtype::F16, |value| f16::from_f32(value).to_le_bytes());
    check(&file, halves(|value| f16::from_f32(value).to_f32()));
    let mut file = original.clone();
    file.convert(Dtype::BF16, |value| bf16::from_f32(value).to_le_bytes());
    check(&file, halves(|value| bf16::from_f32(value).to_f32()));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let (workspace, mut file) = exported(SMALL);
    let nan = f32::NAN.to_le_bytes();
    file.tensors.get_mut("layers.0.update.weight").unwrap().2[8..12].copy_from_slice(&nan);
    file.tensors.get_mut("layers.1.update.bias").unwrap().2[..4]
        .copy_from_slice(&f32::INFINITY.to_le_bytes());
    file.tensors.get_mut("layers.1.recurrent.weight").unwrap().0 = Dtype::I32;
    file.tensors.get_mut("head.bias").unwrap().1 = vec![30, 10];
    file.tensors.remove("head.weight");
    file.tensors.remove("layers.0.recurrent.weight");
    file.tensors.remove("embedding.weight");
    file.tensors.insert("optimizer.state".to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
    let parts = [
        "exported/model.safetensors can't be imported",
        "layers.0.update.weight has 1 values",
        "layers.1.update.bias has 1",
        "layers.1.recurrent.weight is I32",
        "head.bias has shape [30, 10], not [300]",
        "head.weight is missing",
        "layers.0.recurrent.weight is missing",
        "embedding.weight is missing",
        "optimizer.state is no tensor",
    ];
    import(&workspace, &file).failure(1, &parts);
    assert!(!workspace.exists("imported.shoe"));
}

#[test]
fn what_is_missing_is_not_made_up() {
    let square = ModelConfig { embedding: 16, ..SMALL };
    // Without its head a model of equal widths looks like one whose head is tied.
    let (workspace, mut file) = exported(square);
    file.tensors.remove("head.weight");
    import(&workspace, &file).failure(1, &["head.weight is missing"]);
    // A tied model has no head of its own.
    let (workspace, mut file) = exported(ModelConfig { tied: true, ..square });
    let embedding = file.tensors["embedding.weight"].clone();
    file.tensors.insert("head.weight".to_owned(), embedding);
    import(&workspace, &file).failure(1, &["head.weight is no tensor"]);
    // Without its last layer's recurrence a layer is still there.
    let (workspace, mut file) = exported(SMALL);
    file.metadata.clear();
    file.tensors.remove("layers.1.recurrent.weight");
    import(&workspace, &file).failure(1, &["layers.1.recurrent.weight is missing"]);
    file.tensors.clear();
    file.tensors.insert("x".to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
    import(&workspace, &file).failure(1, &["embedding.weight", "layers.0.recurrent.weight"]);
}

#[test]
fn impossible_metadata_is_named() {
    let (workspace, original) = exported(SMALL);
    let cases = [
        ("top_k", "two", "metadata top_k"),
        ("top_k", "4", "top-k is 4"),
        ("top_k", "0", "top-k is 0"),
        ("eps_rmsnorm", "NaN", "eps-rmsnorm"),
        ("eps_rmsnorm", "-1", "eps-rmsnorm is -1; it must lie between 0.000000000001 and 1"),
        ("gru_layers", "3", "layers.2."),
        ("gru_layers", "1", "layers.1.norm.weight is no tensor"),
        ("gru_hidden_size", "4000000000", "gru-hidden-size is"),
        ("gru_hidden_size", "99999999999", "99999999999"),
        ("gru_hidden_size", "16384", on_32_bits("more than this system can address", "shape")),
        ("num_experts", "-3", "metadata num_experts"),
        ("tied", "maybe", "metadata tied"),
        ("dialogue", "yes", "metadata dialogue"),
        ("tied", "true", "tied"),
        ("vocabulary", "301", "300 tokens"),
        ("vocabulary", "0", "vocabulary is 0"),
    ];
    for (key, value, part) in cases {
        let mut file = original.clone();
        file.metadata.insert(key.to_owned(), value.to_owned());
        import(&workspace, &file).failure(1, &["exported/model.safetensors", part]);
    }
}

/// A model of gigabytes has shapes to be wrong only where it could be addressed.
fn on_32_bits(part: &'static str, otherwise: &'static str) -> &'static str {
    if cfg!(target_pointer_width = "32") { part } else { otherwise }
}

/// A small file that claims to be a model of hundreds of gigabytes.
#[test]
fn no_memory_is_taken_for_what_is_not_in_the_file() {
    let (workspace, mut file) = exported(SMALL);
    file.metadata.clear();
    file.tensors.get_mut("layers.0.recurrent.weight").unwrap().1 = vec![256, 16_384, 0];
    file.tensors.get_mut("layers.0.recurrent.weight").unwrap().2.clear();
    let part = on_32_bits(
        "more than this system can address",
        "layers.0.recurrent.weight has shape [256, 16384, 0]",
    );
    import(&workspace, &file).failure(1, &[part]);
}

#[test]
fn files_that_are_broken_or_not_there_are_named() {
    let (workspace, file) = exported(SMALL);
    let bytes = file.write();
    let import = || workspace.run(&["import", "exported", "-o", "imported.shoe"]);
    for broken in [&b""[..], b"{}", &bytes[..bytes.len() - 1], &bytes[..100], &[0xff; 64]] {
        workspace.write("exported/model.safetensors", broken);
        import().failure(1, &["exported/model.safetensors is not a safetensors file"]);
    }
    workspace.write("exported/model.safetensors", &bytes);
    let tokenizer = workspace.read("exported/tokenizer.json");
    for broken in [&b""[..], b"not json", b"{}", b"[]", &tokenizer[..tokenizer.len() / 2], &[0xff; 64]] {
        workspace.write("exported/tokenizer.json", broken);
        import().failure(1, &["exported/tokenizer.json"]);
    }
    small_tokenizer(&workspace);
    import().failure(1, &["tokenizer.json has 290 tokens, the model 300"]);
    std::fs::remove_file(workspace.path("exported/tokenizer.json")).unwrap();
    import().failure(1, &["cannot read exported/tokenizer.json"]);
    workspace
        .run(&["import", "absent", "-o", "imported.shoe"])
        .failure(1, &["cannot read absent/model.safetensors"]);
    workspace
        .run(&["import", "exported/model.safetensors", "-o", "imported.shoe"])
        .failure(1, &["is a file; name the folder"]);
    workspace.write("odd/model.safetensors/file", "");
    workspace
        .run(&["import", "odd", "-o", "imported.shoe"])
        .failure(1, &["odd/model.safetensors", "not a file"]);
    assert!(!workspace.exists("imported.shoe"));
}

fn small_tokenizer(workspace: &Workspace) {
    workspace.write("exported/tokenizer.json", small_model::tokenizer(290).to_json());
}

#[test]
fn an_export_replaces_an_export_only() {
    let (workspace, mut file) = exported(SMALL);
    let export = || workspace.run(&["export", "model.shoe", "exported"]);
    let original = workspace.read("exported/model.safetensors");
    for damaged in [&original[..original.len() - 4], &[&original[..], b"longer"].concat()] {
        workspace.write("exported/model.safetensors", damaged);
        export().success();
        assert_eq!(workspace.read("exported/model.safetensors"), original);
    }

    file.metadata.clear();
    for foreign in [&b"other"[..], b"a text of more than eight bytes", &[255; 20], &file.write()] {
        workspace.write("exported/model.safetensors", foreign);
        export()
            .failure(2, &["exported/model.safetensors is there, and not of a shoestring model", "delete it"]);
        assert_eq!(workspace.read("exported/model.safetensors"), foreign);
    }
    workspace.write("exported/model.safetensors", "");
    workspace.write("exported/tokenizer.json", "{}");
    export().failure(2, &["exported/tokenizer.json is there, and is no tokenizer.json"]);
    assert_eq!(workspace.read("exported/tokenizer.json"), b"{}");
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let (workspace, _) = exported(SMALL);
    workspace.run(&["export", "model.shoe", "text.txt"]).failure(1, &["cannot write text.txt"]);
    workspace.run(&["import", "exported", "-o", "absent/x.shoe"]).failure(1, &["cannot save absent/x.shoe"]);
    workspace
        .run(&["import", "exported", "-o", "exported"])
        .failure(1, &["cannot save exported", "directory"]);
}
