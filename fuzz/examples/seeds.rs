//! Writes the seeds of the fuzz targets that start from a file of ours. To be run, in this folder, when such
//! a file's format changes.

use shoestring::model::Kind;
use std::fs;
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let write = |name: &str, bytes: &[u8]| {
        let path = seeds.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&seeds))?;
        fs::write(path, bytes)
    };
    write("open_checkpoint/model.shoe", &shoestring_fuzz::checkpoint(false))?;
    write("open_checkpoint/resumable.shoe", &shoestring_fuzz::checkpoint(true))?;
    for kind in [Kind::F16, Kind::Q8, Kind::Q4] {
        write(&format!("open_checkpoint/{}.shoe", kind.name()), &shoestring_fuzz::quantized(kind))?;
    }
    write("session_restore/session", &shoestring_fuzz::session())?;
    write("tokenizer_json/tokenizer.json", shoestring_fuzz::tokenizer().to_json().as_bytes())?;
    write("safetensors_import/model", &shoestring_fuzz::safetensors_input())
}
