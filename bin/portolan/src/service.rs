//! `portolan service NAME`: prints, or opens, the URLs of a Service.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cli::service::{Addresses, addresses};

use crate::arguments::ServiceOptions;
use crate::instance::Layout;
use crate::terminal;

pub fn run(options: &ServiceOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let found = runtime.context("cannot start an async runtime")?.block_on(ask(options))?;
    if options.url {
        found.urls.iter().for_each(terminal::line);
    } else {
        terminal::text(&found.table);
    }
    if let Some(trouble) = &found.trouble {
        terminal::warn(&anyhow::anyhow!("service `{}` will not answer: {trouble}", options.name));
    }
    if let Some(pending) = &found.pending {
        terminal::warn(&anyhow::anyhow!("service `{}` has no external address: {pending}", options.name));
    }
    if options.open { open(&found) } else { Ok(()) }
}

async fn ask(options: &ServiceOptions) -> Result<Addresses> {
    let client = client::from_kubeconfig(kubeconfig(options)?.as_deref(), None).await?;
    Ok(addresses(client, &options.namespace, &options.name).await?)
}

/// The file that was named, else that of the cluster on this machine, else what kubectl would take.
fn kubeconfig(options: &ServiceOptions) -> Result<Option<PathBuf>> {
    if options.kubeconfig.is_some() {
        return Ok(options.kubeconfig.clone());
    }
    let ours = Layout::new(&options.data.data_dir)?.kubeconfig();
    // Not root: the file is there but not ours to read; the user's own kubeconfig has the context then.
    Ok(std::fs::File::open(&ours).is_ok().then_some(ours))
}

fn open(found: &Addresses) -> Result<()> {
    let Some(url) = found.urls.iter().find(|url| url.starts_with("http")) else {
        bail!("there is no URL that a browser opens");
    };
    let quiet = |program: &str| {
        Command::new(program).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    };
    match ["xdg-open", "sensible-browser", "open"].into_iter().find_map(|program| quiet(program).ok()) {
        Some(_) => Ok(()),
        None => bail!("no program opens a browser here\n  hint: visit {url}"),
    }
}
