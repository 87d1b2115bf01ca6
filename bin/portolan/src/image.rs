//! `portolan image …`: the node's images, whether the cluster runs or not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use containers::images::build::build;
use containers::images::{Auth, Image, ImageConfig, ImageStore, Progress, PullOptions, Reference};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::arguments::{ImageAction, ImageOptions};
use crate::instance::Layout;
use crate::terminal;

pub fn run(options: &ImageOptions) -> Result<()> {
    let layout = Layout::new(&options.data.data_dir)?;
    let store = ImageStore::open(layout.images())?;
    match &options.action {
        ImageAction::Ls => {
            terminal::text(table(&store.list()?));
            Ok(())
        }
        ImageAction::Pull { name, insecure, registries } => {
            let mut options = registries.pull_options();
            if *insecure {
                options.insecure_registries.push(Reference::parse(name)?.registry().to_owned());
            }
            runtime()?.block_on(pull(&store, name, &options))
        }
        ImageAction::Load { archive } => {
            let loaded = runtime()?.block_on(store.load(archive));
            let loaded = loaded.with_context(|| format!("cannot load `{}`", archive.display()))?;
            loaded.iter().for_each(|image| terminal::line(format_args!("loaded {}", name_of(image))));
            Ok(())
        }
        ImageAction::Import { folder, name, entrypoint, user } => {
            let config = ImageConfig {
                entrypoint: entrypoint.clone(),
                env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
                user: user.clone().unwrap_or_default(),
                architecture: architecture().to_owned(),
                os: "linux".to_owned(),
                ..ImageConfig::default()
            };
            let image = runtime()?.block_on(build(&store, name, folder, &config))?;
            terminal::line(format_args!("imported {}", name_of(&image)));
            Ok(())
        }
        ImageAction::Rm { name } => {
            store.remove(name)?;
            terminal::line(format_args!("removed {name}"));
            Ok(())
        }
        ImageAction::Prune => {
            let pruned = store.prune(|image| !image.names.is_empty())?;
            pruned.images.iter().for_each(|name| terminal::line(format_args!("removed {name}")));
            terminal::line(format_args!("freed {}", HumanBytes(pruned.bytes)));
            Ok(())
        }
    }
}

/// This machine's architecture in the words of OCI.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start an async runtime")
}

async fn pull(store: &ImageStore, name: &str, options: &PullOptions) -> Result<()> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}").context("progress template")?;
    bar.set_style(style);
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    let start = Instant::now();
    let image = store
        .pull(name, &Auth::Anonymous, options, |progress| match progress {
            Progress::Started { bytes, .. } => bar.set_length(bytes),
            Progress::Transferred { bytes, .. } => bar.inc(bytes),
            Progress::Unpacked { .. } => {}
        })
        .await;
    bar.finish_and_clear();
    let image = image?;
    terminal::line(format_args!("pulled {} in {:.1} s", name_of(&image), start.elapsed().as_secs_f64()));
    Ok(())
}

fn name_of(image: &Image) -> &str {
    image.names.first().map_or(&image.id, |name| name)
}

fn table(images: &[Image]) -> String {
    let mut rows = vec![["REPOSITORY".to_owned(), "TAG".to_owned(), "IMAGE ID".to_owned(), "SIZE".to_owned()]];
    for image in images {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let size = HumanBytes(image.size).to_string();
        let unnamed = ["<none>:<none>".to_owned()];
        let names = if image.names.is_empty() { &unnamed[..] } else { &image.names };
        for name in names {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
            rows.push([repository.to_owned(), tag.to_owned(), id.clone(), size.clone()]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    rows.iter()
        .map(|[repository, tag, id, size]| {
            format!("{repository:<0$}   {tag:<1$}   {id:<2$}   {size}\n", widths[0], widths[1], widths[2])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_listed_by_name() {
        let image = Image {
            id: "sha256:0123456789abcdef".into(),
            names: vec!["docker.io/library/busybox:1".into()],
            digests: Vec::new(),
            config: ImageConfig::default(),
            layers: Vec::new(),
            size: 2048,
        };
        let expected = "REPOSITORY                  TAG   IMAGE ID       SIZE\n\
                        docker.io/library/busybox   1     0123456789ab   2.00 KiB\n";
        assert_eq!(table(&[image]), expected);
    }
}
