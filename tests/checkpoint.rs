//! Damaged checkpoints: an error or the same model, never a panic.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_model.rs"]
mod small_model;

use shoestring::checkpoint::{Checkpoint, CheckpointError, Position, Record, open_tokenizer};
use shoestring::kernels::{Kernels, Line};
use shoestring::model::{Kind, Layout, Model, ModelConfig};
use shoestring::sample::{Sampler, Sampling};
use shoestring::tokenizer::Tokenizer;
use shoestring::train::initialise;
use small_model::{SMALL, SMALLEST, convert, save_model, save_resumable, save_training_of_kind};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

/// Length of the header, and where its checksum stands.
const HEADER: usize = 64;
const CHECKSUM: std::ops::Range<usize> = 24..32;

/// Everything a checkpoint holds.
#[derive(PartialEq, Debug)]
struct Everything {
    config: ModelConfig,
    tokenizer: Tokenizer,
    weights: Vec<Line>,
    record: Record,
    training: Option<Training>,
}

/// The state of a training that a checkpoint holds.
#[derive(PartialEq, Debug)]
struct Training {
    weights: Vec<Line>,
    moments: Vec<Line>,
    position: Position,
    model_data: Vec<PathBuf>,
    validation_data: Vec<PathBuf>,
}

fn read(path: &Path) -> Result<Everything, CheckpointError> {
    let checkpoint = Checkpoint::open(path)?;
    let training = match checkpoint.training() {
        Ok(view) => Some(Training {
            weights: view.weights().to_vec(),
            moments: view.moments().to_vec(),
            position: view.position(),
            model_data: view.model_data(),
            validation_data: view.validation_data(),
        }),
        Err(CheckpointError::NoTrainingState { .. }) => None,
        Err(error) => return Err(error),
    };
    assert_eq!(checkpoint.is_resumable(), training.is_some());
    Ok(Everything {
        config: checkpoint.config(),
        tokenizer: checkpoint.tokenizer().to_owned(),
        weights: checkpoint.weights().to_vec(),
        record: checkpoint.record(),
        training,
    })
}

/// A folder with a small checkpoint of each kind, in memory where the system has such a folder.
fn folder() -> (TempDir, [PathBuf; 5]) {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let names = ["model.shoe", "run.shoe", "f16.shoe", "q8.shoe", "q4.shoe"];
    let paths = names.map(|name| folder.path().join(name));
    save_model(&paths[0], SMALLEST, true);
    save_resumable(&paths[1], SMALLEST);
    for (path, kind) in paths[2..].iter().zip([Kind::F16, Kind::Q8, Kind::Q4]) {
        convert(&paths[0], path, kind);
        assert_eq!(Checkpoint::open(path).unwrap().kind(), kind);
    }
    (folder, paths)
}

#[test]
fn only_floats_are_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q8.shoe");
    for (kind, is_sound) in [(Kind::F32, true), (Kind::F16, false), (Kind::Q8, false), (Kind::Q4, false)] {
        save_training_of_kind(&path, SMALLEST, kind);
        match Checkpoint::open(&path) {
            Ok(checkpoint) => assert!(is_sound && checkpoint.is_resumable(), "{kind}"),
            Err(error) => {
                assert!(!is_sound && error.to_string().contains("training state"), "{kind}: {error}")
            }
        }
    }
}

/// Holds the file `bytes` to be refused with a one-line error that names it, or to hold `expected`.
fn refused_or_same(path: &Path, bytes: &[u8], expected: &Everything, what: &str) -> bool {
    fs::write(path, bytes).unwrap();
    match read(path) {
        Ok(everything) => {
            assert_eq!(everything, *expected, "{what}");
            false
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains(path.to_str().unwrap()) && !message.contains('\n'), "{what}: {message}");
            true
        }
    }
}

#[test]
fn a_flip_of_any_byte_is_noticed() {
    let (folder, paths) = folder();
    let damaged = folder.path().join("damaged.shoe");
    for path in paths {
        let (original, bytes) = (read(&path).unwrap(), fs::read(&path).unwrap());
        assert!(bytes.len() < 20_000, "{} bytes take long", bytes.len());
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            let what = format!("{}, byte {at} flipped", path.display());
            assert!(refused_or_same(&damaged, &bytes, &original, &what), "{what} was not noticed");
        }
    }
}

#[test]
fn a_cut_at_any_length_is_noticed_and_so_are_bytes_after_the_end() {
    let (folder, paths) = folder();
    let damaged = folder.path().join("damaged.shoe");
    for path in paths {
        let (original, bytes) = (read(&path).unwrap(), fs::read(&path).unwrap());
        for length in 0..bytes.len() {
            let what = format!("{}, cut to {length} bytes", path.display());
            assert!(refused_or_same(&damaged, &bytes[..length], &original, &what), "{what} was not noticed");
        }
        for more in [&[0][..], &[0; 64], b"x", &bytes] {
            let longer = [&bytes[..], more].concat();
            let what = format!("{}, {} bytes longer", path.display(), more.len());
            assert!(refused_or_same(&damaged, &longer, &original, &what), "{what} was not noticed");
        }
    }
}

/// Large files are not compared with their checksum when they are opened, so their structure must be checked
/// well enough for whatever is read to be safe to use. A damaged file with a matching checksum stands for one.
#[test]
fn damage_that_no_checksum_shows_does_no_harm() {
    let (folder, paths) = folder();
    let damaged = folder.path().join("damaged.shoe");
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        let mut opened = 0;
        for at in HEADER..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= [0x80, 0x01, 0xff, 0x10][at % 4];
            seal(&mut bytes);
            fs::write(&damaged, bytes).unwrap();
            if read(&damaged).is_ok() {
                opened += 1;
                use_model(&damaged);
            }
        }
        assert!(opened > 100, "only {opened} files could be opened: is the checksum right?");
    }
}

/// Puts the checksum that `bytes` should have into their header.
fn seal(bytes: &mut [u8]) {
    bytes[CHECKSUM].fill(0);
    let checksum = xxh3_64(bytes);
    bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}

fn use_model(path: &Path) {
    let model = Model::new(Checkpoint::open(path).unwrap(), Kernels::best());
    let mut session = model.session();
    let mut sampler = Sampler::new(Sampling::default());
    session.feed("Hello! [EOS] caf\u{e9}");
    for _ in 0..3 {
        session.next_token(&mut sampler);
    }
}

#[test]
fn a_sealed_file_is_whole() {
    let (_folder, paths) = folder();
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        let mut sealed = bytes.clone();
        seal(&mut sealed);
        assert!(sealed == bytes, "the tests' checksum is not that of the format");
    }
}

#[test]
fn what_is_no_checkpoint_is_told_apart() {
    let (folder, [model, ..]) = folder();
    let bytes = fs::read(&model).unwrap();
    let open = |name: &str, contents: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, contents).unwrap();
        Checkpoint::open(&path).err().unwrap()
    };
    assert!(matches!(open("empty.shoe", b""), CheckpointError::Truncated { length: 0, .. }));
    assert!(matches!(open("text.shoe", b"Once upon a time"), CheckpointError::Foreign { .. }));
    assert!(matches!(open("zeros.shoe", &[0; 4096]), CheckpointError::Foreign { .. }));
    assert!(matches!(open("short.shoe", &bytes[..40]), CheckpointError::Truncated { .. }));
    assert!(matches!(open("cut.shoe", &bytes[..1000]), CheckpointError::Truncated { .. }));

    let of_version = |version: u32| {
        let mut file = bytes.clone();
        file[8..12].copy_from_slice(&version.to_le_bytes());
        open("version.shoe", &file)
    };
    let error = of_version(3);
    assert!(matches!(error, CheckpointError::Newer { version: 3, known: 2, .. }), "{error}");
    assert!(error.to_string().contains("update shoestring"));
    let error = of_version(1);
    assert!(matches!(error, CheckpointError::Older { version: 1, known: 2, .. }), "{error}");
    assert!(error.to_string().contains("export it with that one"));
    let error = of_version(0);
    assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");

    assert!(matches!(Checkpoint::open(folder.path()).err().unwrap(), CheckpointError::Io { .. }));
    let missing = folder.path().join("missing.shoe");
    assert!(matches!(Checkpoint::open(&missing).err().unwrap(), CheckpointError::Io { .. }));
    assert!(matches!(open_tokenizer(&missing).err().unwrap(), CheckpointError::Io { .. }));
}

#[test]
fn what_is_saved_is_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.shoe");
    save_resumable(&path, SMALL);
    let everything = read(&path).unwrap();
    assert_eq!(everything.config, SMALL);
    assert_eq!(everything.record, small_model::record(true));
    assert_eq!(everything.tokenizer, small_model::tokenizer(SMALL.vocabulary));
    let training = everything.training.unwrap();
    let weights = initialise(&Layout::new(&SMALL), 1);
    assert!(everything.weights == weights);
    assert_eq!(training.weights.len(), weights.len());
    assert!(training.weights.iter().all(|line| line.0 == [0.125; 16]));
    let moments = training.moments.chunks_exact(weights.len());
    assert_eq!(moments.len(), 2);
    for (moment, value) in moments.zip([0.5, 0.25]) {
        assert!(moment.iter().all(|line| line.0 == [value; 16]));
    }
    let Position { chunk, lr_scale, divergences, text_hash, .. } = training.position;
    assert_eq!((chunk, lr_scale, divergences, text_hash), (5, 0.5, 1, 12));
    assert_eq!(training.model_data, ["a.txt", "b.txt"].map(PathBuf::from));
    assert_eq!(training.validation_data, ["c.txt"].map(PathBuf::from));

    // A second save replaces the first, and nothing else is left in the folder.
    save_model(&path, SMALLEST, false);
    assert_eq!(read(&path).unwrap().config, SMALLEST);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// The tokenizer's length decides how much padding the weights need before them.
#[test]
fn any_vocabulary_can_be_saved() {
    let (folder, _) = folder();
    let path = folder.path().join("model.shoe");
    let mut lengths = std::collections::BTreeSet::new();
    for vocabulary in 261..325 {
        save_model(&path, ModelConfig { vocabulary, ..SMALLEST }, true);
        let everything = read(&path).unwrap();
        assert_eq!(everything.tokenizer, small_model::tokenizer(vocabulary));
        lengths.insert(everything.tokenizer.token_bytes.len() % 64);
    }
    assert!(lengths.len() > 32, "the tokenizers are not of many lengths: {lengths:?}");
}

/// A carried state of zeros takes no memory before it is written.
#[cfg(target_pointer_width = "64")]
#[test]
fn what_no_checkpoint_can_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.shoe");
    let carried_state = vec![0.0; i32::MAX as usize / size_of::<f32>()];
    let error = small_model::save_training(&path, SMALLEST, Kind::F32, carried_state).unwrap_err();
    assert!(matches!(error, CheckpointError::TooLarge { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
