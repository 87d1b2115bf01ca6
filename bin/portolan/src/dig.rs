//! `portolan dig NAME`: what a name is answered with, and the object, revision and endpoint that each record comes from.

use std::net::SocketAddr;
use std::path::PathBuf;

use ::dns::explain::{Explained, World, ask, names_tried, record_type};
use ::dns::wire::name::to_text;
use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;

use crate::arguments::DataDir;
use crate::instance::Layout;
use crate::terminal;

#[derive(Debug, Clone, Args)]
pub struct DigOptions {
    /// Name to ask for, such as web.shop.svc.cluster.local
    name: String,
    /// Record type
    #[arg(long, short = 't', value_name = "TYPE", default_value = "A")]
    r#type: String,
    /// Ask as this pod's resolver would, through its search list
    #[arg(long, value_name = "[NAMESPACE/]POD")]
    from: Option<String>,
    /// Domain of the cluster's names
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Server to ask for names outside the cluster [default: that of Service kube-system/kube-dns]
    #[arg(long, value_name = "ADDRESS", value_parser = ::dns::parse_server)]
    server: Option<SocketAddr>,
    /// Cluster to ask [default: that of --data-dir if it runs here, else the current context]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    data: DataDir,
}

pub fn run(options: &DigOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start an async runtime")?.block_on(dig(options))
}

async fn dig(options: &DigOptions) -> Result<()> {
    let kind = record_type(&options.r#type).with_context(|| format!("`{}` is no record type", options.r#type))?;
    let client = client::from_kubeconfig(kubeconfig(options)?.as_deref(), None).await?;
    let world = World {
        domain: options.cluster_domain.clone(),
        ttl: 5,
        namespaces: all(Api::all(client.clone())).await?,
        services: all(Api::all(client.clone())).await?,
        slices: all(Api::all(client.clone())).await?,
    };
    let pod = match &options.from {
        Some(from) => Some(pod(&client, from).await?),
        None => None,
    };
    let host = ::dns::machine_search_domains(&PathBuf::from(::dns::RESOLV_CONF));
    let names = names_tried(&options.name, pod.as_ref(), &options.cluster_domain, &host);
    let names = names.with_context(|| format!("`{}` is not a DNS name", options.name))?;
    let server = options.server.or_else(|| world.server_address());
    for explained in world.explain(&names, kind) {
        if shown(&explained, kind, server).await {
            return Ok(());
        }
    }
    bail!("no such name: `{}`", options.name)
}

/// Prints one step of the search; true if the search ends with it.
async fn shown(explained: &Explained, kind: u16, server: Option<SocketAddr>) -> bool {
    let name = to_text(&explained.name);
    for explanation in &explained.records {
        terminal::line(format_args!("{}\n    ← {}", explanation.record, explanation.origin));
    }
    let Some(outside) = &explained.outside else {
        if explained.records.is_empty() {
            terminal::line(format_args!(
                "{name} {}",
                if explained.code == "NOERROR" { "exists, without that type" } else { explained.code }
            ));
        }
        return explained.code == "NOERROR";
    };
    let Some(server) = server else {
        terminal::line(format_args!("{} is outside the cluster, and there is no server to ask", to_text(outside)));
        return true;
    };
    match ask(server, outside, kind).await {
        Some(answer) => {
            for record in &answer.answers {
                terminal::line(format_args!("{record}\n    ← outside, as {server} was told"));
            }
            if answer.answers.is_empty() {
                terminal::line(format_args!(
                    "{} {} ← outside, as {server} was told",
                    to_text(outside),
                    answer.metadata.response_code
                ));
            }
            !answer.answers.is_empty()
        }
        None => {
            terminal::line(format_args!(
                "{} is outside the cluster; {server} does not answer from here",
                to_text(outside)
            ));
            true
        }
    }
}

async fn all<K>(api: Api<K>) -> Result<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let listed = api.list(&ListParams::default()).await;
    Ok(listed.with_context(|| format!("cannot list {}", K::plural(&())))?.items)
}

async fn pod(client: &kube::Client, from: &str) -> Result<Pod> {
    let (namespace, name) = from.split_once('/').unwrap_or(("default", from));
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    api.get(name).await.with_context(|| format!("cannot read pod {namespace}/{name}\n  hint: give it as NAMESPACE/POD"))
}

/// The file that was named, else that of the cluster on this machine, else what kubectl would take.
fn kubeconfig(options: &DigOptions) -> Result<Option<PathBuf>> {
    if options.kubeconfig.is_some() {
        return Ok(options.kubeconfig.clone());
    }
    let ours = Layout::new(&options.data.data_dir)?.kubeconfig();
    Ok(std::fs::File::open(&ours).is_ok().then_some(ours))
}
