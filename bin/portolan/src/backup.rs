//! `portolan backup FILE` and `portolan restore FILE`: everything that the API server keeps, in one file and back.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::HumanBytes;

use crate::arguments::{BackupOptions, RestoreOptions};
use crate::instance::Layout;
use crate::terminal;

pub fn run(options: &BackupOptions) -> Result<()> {
    let layout = Layout::new(&options.data.data_dir)?;
    let bytes = match (layout.daemon(), options.salvage) {
        (Some(pid), true) => {
            bail!("the cluster runs (process {pid}), its store is not damaged\n  hint: leave out --salvage")
        }
        (Some(_), false) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("cannot start an async runtime")?.block_on(ask(&layout))?
        }
        (None, true) => {
            let saved = apiserver::backup::of_damaged(&layout.data_dir)?;
            terminal::line(format_args!("{} objects could be read, {} records could not", saved.objects, saved.lost));
            saved.bytes
        }
        (None, false) => {
            let missing = || format!("there is no cluster's data in {}", layout.data_dir.display());
            fs::metadata(layout.store()).with_context(missing)?;
            apiserver::backup::of_stopped(&layout.data_dir)?
        }
    };
    write(&options.file, &bytes).with_context(|| format!("cannot write `{}`", options.file.display()))?;
    let size = HumanBytes(bytes.len() as u64);
    terminal::line(format_args!("backed up to {} ({size}); it holds private keys", options.file.display()));
    Ok(())
}

async fn ask(layout: &Layout) -> Result<Vec<u8>> {
    let client = client::from_kubeconfig(Some(&layout.kubeconfig()), None).await?;
    let bytes = client::get_bytes(&client, "/portolan/backup").await.context("the API server gives no backup")?;
    Ok(bytes.into())
}

/// Whole or not at all, durable, and readable for its owner alone.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let half = path.with_extension("part");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&half, path)
}

pub fn restore(options: &RestoreOptions) -> Result<()> {
    let layout = Layout::new(&options.data.data_dir)?;
    if let Some(pid) = layout.daemon() {
        bail!("the cluster in {} runs (process {pid})\n  hint: `portolan down` first", layout.data_dir.display());
    }
    let file = fs::File::open(&options.file).with_context(|| format!("cannot read `{}`", options.file.display()))?;
    let restored = apiserver::backup::restore(std::io::BufReader::new(file), &layout.data_dir)?;
    terminal::line(format_args!("restored {} objects to {}", restored.objects, layout.data_dir.display()));
    terminal::line("  hint: `portolan up` starts the cluster");
    Ok(())
}
