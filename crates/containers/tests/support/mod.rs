//! A place for containers of one test: folder, cgroup, image with the test program; gone when the test is, and swept
//! away by the next run if the process was killed.

#![allow(clippy::unwrap_used, reason = "a test's support fails by panicking, like the test")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use containers::images::{ImageConfig, ImageStore, build};
use containers::runtime::{
    ContainerConfig, ContainerState, Exit, Identity, Libcontainer, Runtime, SandboxConfig, Security,
};
use linux::cgroup::Cgroup;
use linux::{NetNs, ProcessId, mounts};

pub const IMAGE: &str = "portolan.test/program:1";
pub const SANDBOX: &str = "pod1";

pub struct Lab {
    pub dir: PathBuf,
    pub images: ImageStore,
    pub runtime: Arc<Libcontainer>,
    pub cgroup: String,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);
const PREFIX: &str = "portolan-containers-test-";

impl Lab {
    pub async fn new() -> Lab {
        sweep();
        let name = format!("{PREFIX}{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let images = ImageStore::open(dir.join("images")).unwrap();
        let tree = dir.join("tree");
        image_tree(&tree);
        build::build(&images, IMAGE, &tree, &image_config()).await.unwrap();
        let runtime = Arc::new(Libcontainer::with_shim(dir.join("containers"), images.clone(), shim()).unwrap());
        Lab { dir, images, runtime, cgroup: name }
    }

    /// As a daemon that starts again does it: nothing is handed over but what is on disk.
    pub async fn restart(&mut self) {
        self.images = ImageStore::open(self.dir.join("images")).unwrap();
        let runtime = Libcontainer::with_shim(self.dir.join("containers"), self.images.clone(), shim()).unwrap();
        self.runtime = Arc::new(runtime);
    }

    pub fn netns(&self) -> PathBuf {
        let path = self.dir.join("netns");
        if !path.exists() {
            NetNs::create(&path).unwrap();
        }
        path
    }

    pub fn sandbox_config(&self) -> SandboxConfig {
        SandboxConfig {
            id: SANDBOX.to_owned(),
            hostname: Some("pod-one".to_owned()),
            network: Some(self.netns()),
            cgroup: format!("{}/{SANDBOX}", self.cgroup),
            ..SandboxConfig::default()
        }
    }

    pub async fn sandbox(&self) {
        self.runtime.run_sandbox(self.sandbox_config()).await.unwrap();
    }

    pub fn container_config(&self, id: &str, args: &[&str]) -> ContainerConfig {
        ContainerConfig {
            id: id.to_owned(),
            image: IMAGE.to_owned(),
            args: args.iter().map(|a| a.to_string()).collect(),
            log_path: self.log_path(id),
            ..ContainerConfig::default()
        }
    }

    pub async fn create_and_start(&self, config: ContainerConfig) {
        let id = config.id.clone();
        self.runtime.create_container(SANDBOX, config).await.unwrap();
        self.runtime.start_container(SANDBOX, &id).await.unwrap();
    }

    pub async fn run(&self, id: &str, args: &[&str]) {
        self.create_and_start(self.container_config(id, args)).await;
    }

    pub async fn state(&self, id: &str) -> ContainerState {
        self.runtime.container_status(SANDBOX, id).await.unwrap().state
    }

    pub async fn exit(&self, id: &str) -> Exit {
        eventually(&format!("{id} ends"), async || match self.state(id).await {
            ContainerState::Exited(exit) => Some(exit),
            ContainerState::Created | ContainerState::Running { .. } => None,
        })
        .await
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{id}.log"))
    }

    /// The log without its times: `stdout F text`.
    pub fn log(&self, id: &str) -> String {
        let text = std::fs::read_to_string(self.log_path(id)).unwrap_or_default();
        text.lines().map(|line| format!("{}\n", line.split_once(' ').unwrap().1)).collect()
    }

    /// Runs a container to its end and gives what it wrote to standard output.
    pub async fn output(&self, config: ContainerConfig) -> String {
        let id = config.id.clone();
        self.create_and_start(config).await;
        self.exit(&id).await;
        let text: Vec<String> =
            self.log(&id).lines().filter_map(|l| l.strip_prefix("stdout F ").map(str::to_owned)).collect();
        text.join("\n")
    }

    pub async fn exec(&self, id: &str, command: &[&str]) -> (String, i32) {
        let command = command.iter().map(|c| c.to_string()).collect();
        let output = self.runtime.exec_sync(SANDBOX, id, command, Duration::from_secs(30), 1 << 20).await.unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.exit_code)
    }

    /// How many processes the sandbox's containers have.
    pub fn processes(&self) -> usize {
        Cgroup::at(format!("{}/{SANDBOX}", self.cgroup)).unwrap().processes().len()
    }

    /// Nothing runs any more, and the control groups are gone, as after a loss of power.
    pub fn lose_processes(&self) {
        let group = Cgroup::at(&self.cgroup).unwrap();
        group.kill(Duration::from_secs(10)).unwrap();
        group.remove().unwrap();
    }

    /// The size of the terminal that one of the sandbox's processes has, as that process sees it.
    pub fn terminal_size(&self) -> (u16, u16) {
        let pids = Cgroup::at(format!("{}/{SANDBOX}", self.cgroup)).unwrap().processes();
        let stdin = |pid: &i32| PathBuf::from(format!("/proc/{pid}/fd/0"));
        let on_terminal = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|to| to.starts_with("/dev/pts"));
        let stdin = pids.iter().map(stdin).find(on_terminal).unwrap();
        linux::terminal::size(&std::fs::File::open(stdin).unwrap()).unwrap()
    }

    pub fn shim(&self) -> ProcessId {
        let text = std::fs::read(self.dir.join("containers").join(SANDBOX).join("shim.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        ProcessId::of(record["pid"].as_i64().unwrap() as i32).unwrap()
    }

    pub fn nothing_is_left(&self) {
        assert_eq!(mounts::mounted_below(&self.dir.join("containers")).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(std::fs::read_dir(self.dir.join("containers")).unwrap().count(), 0);
        assert!(!Cgroup::at(&self.cgroup).unwrap().exists(), "cgroups are left");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        clear(&self.dir, &self.cgroup);
    }
}

fn clear(dir: &Path, cgroup: &str) {
    let group = Cgroup::at(cgroup).unwrap();
    let _ = group.kill(Duration::from_secs(10));
    let _ = group.remove();
    let _ = mounts::unmount_all(dir);
    let _ = std::fs::remove_dir_all(dir);
}

/// Clears away what runs that were killed have left.
fn sweep() {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
    let places = hierarchies.chain([PathBuf::from("/sys/fs/cgroup"), std::env::temp_dir()]);
    let names = places.flat_map(|place| std::fs::read_dir(place).into_iter().flatten().flatten());
    let left: std::collections::BTreeSet<String> =
        names.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with(PREFIX)).collect();
    for name in left {
        let pid = name[PREFIX.len()..].split('-').next().unwrap_or_default().to_owned();
        if !Path::new("/proc").join(pid).exists() {
            clear(&std::env::temp_dir().join(&name), &name);
        }
    }
}

/// Waits for something that must happen; the bound is only against hanging for ever.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: it did not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn image_tree(tree: &Path) {
    for dir in ["etc", "tmp", "work"] {
        std::fs::create_dir_all(tree.join(dir)).unwrap();
    }
    std::fs::copy(program(), tree.join("program")).unwrap();
    std::fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n")
        .unwrap();
    std::fs::write(tree.join("etc/group"), "root:x:0:\nusers:x:1001:\nextra:x:1002:user\n").unwrap();
}

pub fn image_config() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/program".to_owned()],
        cmd: vec!["say".to_owned(), "hello".to_owned()],
        env: vec!["FROM_IMAGE=yes".to_owned(), "PATH=/:/bin".to_owned()],
        working_dir: "/work".to_owned(),
        ..ImageConfig::default()
    }
}

/// The test program, compiled once.
pub fn program() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/program.rs");
    let program = folder.join("containers-test-program");
    let time = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
    if time(&program) >= time(&source) {
        return program;
    }
    std::fs::create_dir_all(&folder).unwrap();
    let partial = folder.join(format!("containers-test-program-{}", std::process::id()));
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled = Command::new(rustc)
        .args(["--edition=2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
        .arg(&partial)
        .arg(&source)
        .status()
        .unwrap();
    assert!(compiled.success());
    std::fs::rename(&partial, &program).unwrap();
    program
}

/// The example `shim`, which cargo builds along with the tests.
pub fn shim() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/shim")
}

pub fn as_user(uid: u32) -> Identity {
    Identity { uid: Some(uid), ..Identity::default() }
}

pub fn readonly() -> Security {
    Security { readonly_rootfs: true, ..Security::default() }
}
