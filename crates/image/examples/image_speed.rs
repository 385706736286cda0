//! How fast the store unpacks, receives and packs: `image_speed MEGABYTES [LAYERS]`, by default 500 in 5.
//!
//! Everything happens in a temporary folder of the current one. The image is made here: half of its bytes compress, half do not, in
//! files of the sizes that a distribution's packages have.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::thread;

use gantry_env::{Env, System};
use gantry_image::{Descriptor, ImageDraft, ImageInfo, LayerCompression, Store, UpperLayer};

use gantry_model::Digest;

const MB: usize = 1_000_000;
/// From a symbolic link's size to a shared library's.
const FILE_BYTES: [usize; 8] = [300, 900, 2_000, 5_000, 12_000, 40_000, 150_000, 2_000_000];
const TTL: gantry_model::DurationMs = gantry_model::DurationMs::secs(3600);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (megabytes, layers) = (number(500)?, number(5)?);
    let folder = tempfile::tempdir_in(".")?;
    let from = Store::open(folder.path().join("from"))?;
    let image = make(&from, megabytes * MB / layers, layers)?;
    let archive = folder.path().join("image.tar");
    measured("save", megabytes, || {
        from.save(
            &[image.digest.into()],
            fs::File::create(&archive)?,
            gantry_image::Format::DockerArchive,
        )
        .map_err(Into::into)
    })?;
    let to = Store::open(folder.path().join("load"))?;
    measured("load", megabytes, || {
        to.load(fs::File::open(&archive)?).map(drop).map_err(Into::into)
    })?;
    measured("unpack", megabytes, || {
        to.unpack(image.digest).map(drop).map_err(Into::into)
    })?;
    measured("settle (sync)", megabytes, || to.settle().map_err(Into::into))?;
    let to = Store::open(folder.path().join("pull"))?;
    measured("receive and unpack", megabytes, || receive(&from, &to, &image))?;
    measured("settle (sync)", megabytes, || to.settle().map_err(Into::into))?;
    measured("verify", megabytes, || {
        to.verify(&Default::default(), false).map(drop).map_err(Into::into)
    })?;
    println!("memory at most: {} MB", memory_kb_max()? / 1000);
    Ok(())
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn measured(what: &str, megabytes: usize, act: impl FnOnce() -> Outcome) -> Outcome {
    let start = System.monotonic();
    act()?;
    let ms = System.monotonic().0.saturating_sub(start.0).max(1);
    println!("{what:>20}: {ms:>6} ms {:>6} MB/s", megabytes as u64 * 1000 / ms);
    Ok(())
}

fn make(store: &Store, layer_bytes: usize, layers: usize) -> Result<ImageInfo, Box<dyn std::error::Error>> {
    let lease = store.lease(TTL)?;
    let mut noise = vec![0; 4 * MB];
    System.fill_random(&mut noise);
    let text: Vec<u8> = b"what a program says of itself "
        .iter()
        .copied()
        .cycle()
        .take(4 * MB)
        .collect();
    let mut top = None;
    for layer in 0..layers {
        let workspace = store.workspace();
        let upper = workspace.folder("upper")?;
        fill(&upper, layer, layer_bytes, &noise, &text)?;
        let draft = UpperLayer {
            upper: &upper,
            parent: top,
            epoch: None,
        };
        measured("commit a layer", layer_bytes / MB, || {
            top = Some(store.commit_layer(&lease, &draft)?.chain);
            Ok(())
        })?;
    }
    let chain = top.ok_or("no layers")?;
    for compression in [LayerCompression::None, LayerCompression::Zstd, LayerCompression::Gzip] {
        measured(&format!("compress {compression:?}"), layer_bytes / MB, || {
            let blob = store.layer_blob(&lease, chain, compression)?;
            println!("{:>20}  {} MB", "", blob.size.unwrap_or(0) as usize / MB);
            Ok(())
        })?;
    }
    let draft = ImageDraft {
        top,
        ..ImageDraft::default()
    };
    let mut image = None;
    measured("write the image", layer_bytes * (layers - 1) / MB, || {
        image = Some(store.write_image(&lease, &draft)?);
        Ok(())
    })?;
    Ok(image.ok_or("no image")?)
}

fn fill(upper: &Path, layer: usize, bytes: usize, noise: &[u8], text: &[u8]) -> io::Result<()> {
    let (mut written, mut number) = (0, 0);
    while written < bytes {
        let size = FILE_BYTES[number % FILE_BYTES.len()].min(bytes - written);
        let folder = upper.join(format!("l{layer}/d{}", number / 100));
        if number.is_multiple_of(100) {
            fs::create_dir_all(&folder)?;
        }
        let content = if (number / FILE_BYTES.len()).is_multiple_of(2) {
            noise
        } else {
            text
        };
        let start = number * 7919 % (content.len() - size);
        fs::write(folder.join(format!("f{number}")), &content[start..start + size])?;
        written += size;
        number += 1;
    }
    Ok(())
}

/// As a pull does: documents first, then all layers at once, three at a time.
fn receive(from: &Store, to: &Store, image: &ImageInfo) -> Outcome {
    let lease = to.lease(TTL)?;
    for digest in [image.digest, image.config_digest] {
        let blob = from.read_blob(digest, 0)?;
        to.put_blob(&Descriptor::new("", digest, blob.size()), blob)?;
    }
    let missing = to.missing(image.digest)?;
    let queue = std::sync::Mutex::new(missing.into_iter());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| -> Result<(), gantry_image::ImageError> {
                    loop {
                        let next = queue.lock().expect("no holder panics").next();
                        let Some(blob) = next else { return Ok(()) };
                        let source = open(from, blob.digest)?;
                        to.resume_layer(&lease, image.digest, &blob, 0, source)?;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("no worker panics")?;
        }
        Ok::<(), gantry_image::ImageError>(())
    })?;
    to.commit_image(image.digest)?;
    to.unpack(image.digest)?;
    Ok(())
}

fn open(store: &Store, digest: Digest) -> Result<impl Read, gantry_image::ImageError> {
    store.open_blob(digest)
}

fn memory_kb_max() -> Result<u64, Box<dyn std::error::Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("the kernel does not say")?;
    Ok(number.parse()?)
}
