//! `cargo xtask demo`: the news example on a cluster of its own, and the proofs that Services do what they promise.
//!
//! It builds release, gets the images, starts `portolan up --detach`, applies `examples/news` with real kubectl and proves the story line
//! by line. `--lab` does all of it inside namespaces that stand for a whole machine (network, mounts, processes), so that nothing of the
//! real machine is touched and everything ends with the command, also when it is killed.

pub mod images;
mod proofs;
mod rootfs;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::command::{cargo, output, program, run as execute, target};
use crate::{lab, tools};

#[derive(Args)]
pub struct Options {
    /// Tear everything down at the end; the exit code says whether all proofs held
    #[arg(long)]
    once: bool,
    /// Run inside a network namespace that stands for the machine, and touch nothing of the real one
    #[arg(long)]
    lab: bool,
    /// Set for the command that runs inside the lab
    #[arg(long, hide = true)]
    inside_lab: bool,
}

/// What the demo works with.
pub struct Setting {
    pub portolan: PathBuf,
    pub newsproducer: PathBuf,
    pub kubectl: PathBuf,
    pub data_dir: PathBuf,
    pub kubeconfig: PathBuf,
}

const PACKAGES: &[(&str, &str)] = &[("dpkg-deb", "dpkg"), ("unshare", "util-linux"), ("ip", "iproute2")];

pub fn run(options: &Options) -> Result<()> {
    tools::need_root("demo")?;
    if options.inside_lab {
        lab::begin()?;
        return match story(&setting(true)?, true)? {
            0 => Ok(()),
            failed => bail!("{failed} proofs failed"),
        };
    }
    tools::debian(PACKAGES)?;
    execute(cargo().args(["build", "--release", "--package", "portolan", "--package", "newsproducer"]))?;
    let setting = setting(options.lab)?;
    prepare(&setting, options.lab)?;
    if options.lab {
        return lab::enter(&["demo", "--inside-lab"]);
    }
    let failed = story(&setting, options.once)?;
    if failed > 0 {
        bail!("{failed} proofs failed");
    }
    Ok(())
}

/// The whole demo in its lab; an error if a proof failed.
pub fn prove_once_in_lab() -> Result<()> {
    run(&Options { once: true, lab: true, inside_lab: false })
}

fn setting(lab: bool) -> Result<Setting> {
    let built = target().join("release");
    let data_dir = if lab { target().join("demo/lab") } else { PathBuf::from("/var/lib/portolan") };
    let kubeconfig = data_dir.join("kubeconfig");
    let kubectl = match std::env::var_os("KUBECTL") {
        Some(given) => given.into(),
        None => tools::kubectl(tools::KUBECTL_NEWEST)?,
    };
    Ok(Setting {
        portolan: built.join("portolan"),
        newsproducer: built.join("newsproducer"),
        kubectl,
        data_dir,
        kubeconfig,
    })
}

/// What needs the outside world: images, before the lab closes the door.
fn prepare(setting: &Setting, lab: bool) -> Result<()> {
    if lab {
        // What a killed run left behind; `down` of an instance that is not there is fine.
        let mut down = program(&setting.portolan, &["down", "--data-dir"]);
        output(down.arg(&setting.data_dir)).context("cannot clear what an earlier lab left")?;
    }
    fs::create_dir_all(&setting.data_dir)?;
    images::ensure(setting)
}

/// Up, the story, and down again if asked; gives the number of proofs that failed.
fn story(setting: &Setting, once: bool) -> Result<usize> {
    let start = Instant::now();
    let mut up = program(&setting.portolan, &["up", "--detach", "--data-dir"]);
    up.arg(&setting.data_dir);
    if once {
        up.arg("--no-kubeconfig");
    }
    execute(&mut up)?;
    let failed = proofs::prove(setting);
    println!("the story took {:.0} s", start.elapsed().as_secs_f64());
    if once {
        execute(program(&setting.portolan, &["down", "--data-dir"]).arg(&setting.data_dir))?;
    } else {
        println!(
            "\nThe cluster runs. Try:\n  kubectl get all\n  {} service activemq-service",
            setting.portolan.display()
        );
        println!("  {} status\n  {} down", setting.portolan.display(), setting.portolan.display());
    }
    failed
}
