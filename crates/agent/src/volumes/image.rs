//! An image as a volume: its layers on top of each other, for reading only.
//!
//! Beside the volume is a note of which image it is, so that a restarted agent goes on holding it and the pod's end lets it go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use containers::images::{Image, ImageStore};
use linux::mounts::{self, Overlay};

/// The end of a note's name; it begins with two dots, as no volume's name does.
const NOTE: &str = ".image";

/// Mounts the image at `root`, unless it is.
pub fn mount(images: &ImageStore, image: &Image, root: &Path) -> Result<(), super::Error> {
    let wrong = |source: io::Error| super::Error::Write { path: root.to_owned(), source };
    if mounts::mounted_below(root)?.iter().any(|mounted| mounted == root) {
        return Ok(());
    }
    fs::create_dir_all(root).map_err(wrong)?;
    fs::write(note(root), &image.id).map_err(wrong)?;
    images.hold(&image.id, &user(root));
    let mut lower = images.lower_dirs(image);
    // The kernel wants two where nothing is written.
    lower.push(ImageStore::EMPTY_LAYER.to_owned());
    let overlay = Overlay { base: &images.layers_dir(), lower: &lower, upper_and_work: None, target: root };
    Ok(mounts::overlay(&overlay)?)
}

/// Goes on holding the images of all volumes in this folder.
pub fn hold_all(images: &ImageStore, volumes: &Path) {
    for (root, id) in notes(volumes) {
        images.hold(&id, &user(&root));
    }
}

/// Lets go of the images of all volumes in this folder.
pub fn release_all(images: &ImageStore, volumes: &Path) {
    for (root, id) in notes(volumes) {
        images.release(&id, &user(&root));
    }
}

fn notes(volumes: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(volumes).into_iter().flatten().flatten();
    let noted = entries.filter_map(|entry| {
        let file = entry.file_name().into_string().ok()?;
        let volume = file.strip_prefix("..")?.strip_suffix(NOTE)?.to_owned();
        Some((volumes.join(volume), fs::read_to_string(entry.path()).ok()?))
    });
    noted.collect()
}

fn note(root: &Path) -> PathBuf {
    root.with_file_name(format!("..{}{NOTE}", root.file_name().unwrap_or_default().to_string_lossy()))
}

fn user(root: &Path) -> String {
    format!("volume {}", root.display())
}
