//! Any bytes as a `model.safetensors`: imported or refused, never a panic, and never more memory than the
//! file's size explains.
//!
//! Input that starts with `{` is the file's JSON header, a zero byte, and its data; so that its length is
//! right. Otherwise it is a list of changes to the tensors of a right file, whose data is made to fit.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use shoestring::kernels::as_floats;
use shoestring::model::Layout;
use shoestring::tokenizer::Tokenizer;
use shoestring::transfer::read_model;
use std::path::Path;
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(shoestring_fuzz::tokenizer);

/// Header of a right file.
static HEADER: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let seed = include_bytes!("../seeds/safetensors_import/model");
    let (header, data) = split(seed).expect("`cargo run --example seeds` renews it");
    read_model(&assemble(header, data), &TOKENIZER, Path::new("the seed"))
        .expect("`cargo run --example seeds` renews it");
    serde_json::from_slice(header).expect("it was just read")
});

const DTYPES: [(&str, usize); 8] =
    [("F32", 4), ("F16", 2), ("BF16", 2), ("F64", 8), ("I8", 1), ("I64", 8), ("BOOL", 1), ("F8_E4M3", 1)];

/// A change to one tensor, counted going round, or to the metadata.
#[derive(Arbitrary)]
enum Change {
    Drop { tensor: u8 },
    Rename { tensor: u8, layer: u8, part: String },
    Dimension { tensor: u8, dimension: u8, size: u16 },
    AllButOneDimensionHuge { tensor: u8, empty: u8 },
    Dimensions { tensor: u8, count: u8 },
    Dtype { tensor: u8, dtype: u8 },
    Metadata { key: u8, value: String },
}

fuzz_target!(|data: &[u8]| {
    import(data);
    if data.starts_with(b"{") {
        if let Some((header, data)) = split(data) {
            import(&assemble(header, data));
        }
    } else if let Ok(changes) = Vec::<Change>::arbitrary_take_rest(Unstructured::new(data)) {
        import(&file_with(&changes));
    }
});

fn split(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = input.iter().position(|&byte| byte == 0)?;
    Some((&input[..end], &input[end + 1..]))
}

fn assemble(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

fn file_with(changes: &[Change]) -> Vec<u8> {
    let mut header = HEADER.clone();
    changes.iter().for_each(|change| change.apply(&mut header));
    let mut end = 0;
    for (_, tensor) in header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
        let size =
            |dtype: &Value| DTYPES.iter().find(|(name, _)| dtype == name).map_or(0, |&(_, size)| size as u64);
        let shape = tensor["shape"].as_array().into_iter().flatten().map(|size| size.as_u64().unwrap_or(0));
        let elements: u64 = shape.fold(1, u64::saturating_mul);
        // More than this is written as nothing, which the format refuses.
        let length =
            elements.checked_mul(size(&tensor["dtype"])).filter(|&length| length <= 1 << 16).unwrap_or(0);
        tensor["data_offsets"] = json!([end, end + length]);
        end += length;
    }
    let data: Vec<u8> = (0..end).map(|i| (i * 7 + i / 4 % 64) as u8).collect();
    assemble(Value::Object(header).to_string().as_bytes(), &data)
}

impl Change {
    fn apply(&self, header: &mut Map<String, Value>) {
        let tensors: Vec<String> = header.keys().filter(|name| *name != "__metadata__").cloned().collect();
        if tensors.is_empty() {
            return;
        }
        let name = |place: u8| tensors[usize::from(place) % tensors.len()].as_str();
        match self {
            Change::Drop { tensor } => drop(header.remove(name(*tensor))),
            Change::Rename { tensor, layer, part } => {
                let value = header.remove(name(*tensor)).unwrap_or_default();
                header.insert(format!("layers.{layer}.{part}"), value);
            }
            Change::Dimension { tensor, dimension, size } => {
                if let Some(shape) =
                    header[name(*tensor)]["shape"].as_array_mut().filter(|shape| !shape.is_empty())
                {
                    let place = usize::from(*dimension) % shape.len();
                    shape[place] = json!(size);
                }
            }
            Change::AllButOneDimensionHuge { tensor, empty } => {
                if let Some(shape) =
                    header[name(*tensor)]["shape"].as_array_mut().filter(|shape| !shape.is_empty())
                {
                    shape.fill(json!(1 << 14));
                    let place = usize::from(*empty) % shape.len();
                    shape[place] = json!(0);
                }
            }
            Change::Dimensions { tensor, count } => {
                header[name(*tensor)]["shape"] = json!(vec![2; usize::from(count % 5)])
            }
            Change::Dtype { tensor, dtype } => {
                header[name(*tensor)]["dtype"] = json!(DTYPES[usize::from(*dtype) % DTYPES.len()].0);
            }
            Change::Metadata { key, value } => {
                let keys = ["top_k", "eps_rmsnorm", "dialogue", "format"];
                header["__metadata__"][keys[usize::from(*key) % keys.len()]] = json!(value);
            }
        }
    }
}

fn import(file: &[u8]) {
    let Ok(imported) = read_model(file, &TOKENIZER, Path::new("input")) else { return };
    imported.config.validate().expect("an imported configuration is valid");
    let layout = Layout::new(&imported.config);
    assert_eq!(imported.weights.len(), layout.lines);
    // One number of the file, 2 bytes at least, makes one line at most, of 64 bytes.
    assert!(imported.weights.len() <= file.len() / 2);
    assert!(as_floats(&imported.weights).iter().all(|weight| weight.is_finite()));
}
