//! Images from a real registry (Debian's `docker-registry`), which runs on the test's machine: by tag and by digest, with a login,
//! by the command and by pods.

use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

const REGISTRY: &str = "localhost:5000";
/// `user` and `swordfish`, as htpasswd has them.
const LOGIN: &str = "user:swordfish";
const PASSWORDS: &str = "user:$2b$05$abcdefghijklmnopqrstuupWDwJQeCHYIBQy8WvkVB6ImhZ476YYy\n";

struct Registry<'a> {
    machine: &'a Machine,
    server: Child,
    login: bool,
}

impl<'a> Registry<'a> {
    fn start(machine: &'a Machine, login: bool) -> Result<Self> {
        let folder = machine.folder().join("registry");
        std::fs::create_dir_all(&folder)?;
        let passwords = machine.file("passwords", PASSWORDS)?;
        let auth = match login {
            true => format!("auth: {{htpasswd: {{realm: test, path: {}}}}}", passwords.display()),
            false => String::new(),
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {REGISTRY}}}\n{auth}\n",
            folder.display()
        );
        let config = machine.file("registry.yml", &config)?;
        let program = std::env::var_os("DOCKER_REGISTRY").unwrap_or_else(|| "docker-registry".into());
        let server =
            machine.command(program).arg("serve").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = server.context("cannot start `docker-registry` (package docker-registry, or DOCKER_REGISTRY)")?;
        let registry = Registry { machine, server, login };
        until("the registry answers", || registry.curl(&["-f", "http://localhost:5000/v2/"]).map(drop))?;
        Ok(registry)
    }

    fn curl(&self, arguments: &[&str]) -> Result<String> {
        let login: &[&str] = if self.login { &["-u", LOGIN] } else { &[] };
        Ok(said(self.machine.command("curl").arg("-sS").args(login).args(arguments))?.ok()?.out)
    }

    /// Uploads a file as a blob; gives its digest and size.
    fn blob(&self, repository: &str, file: &Path) -> Result<(String, u64)> {
        let sum = said(self.machine.command("sha256sum").arg(file))?.ok()?.out;
        let digest = format!("sha256:{}", sum.split(' ').next().unwrap_or_default());
        let begin = format!("http://{REGISTRY}/v2/{repository}/blobs/uploads/");
        let head = self.curl(&["-f", "-D", "-", "-X", "POST", &begin])?;
        let place = head.lines().find_map(|line| line.strip_prefix("Location: ")).context(head.clone())?.trim();
        let data = format!("@{}", file.display());
        let (kind, place) = ("Content-Type: application/octet-stream", format!("{place}&digest={digest}"));
        self.curl(&["-f", "-X", "PUT", "-H", kind, "--data-binary", &data, &place])?;
        Ok((digest, std::fs::metadata(file)?.len()))
    }

    /// Pushes a busybox image of two layers; gives its digest.
    fn push(&self, repository: &str, tag: &str) -> Result<String> {
        let folder = self.machine.folder();
        let second = folder.join("second");
        std::fs::create_dir_all(second.join("etc"))?;
        std::fs::write(second.join("etc/from"), format!("{repository}\n"))?;
        let (mut layers, mut plain) = (Vec::new(), Vec::new());
        for (name, tree) in [("first", folder.join("busybox")), ("second", second)] {
            let tar = folder.join(format!("{name}.tar"));
            said(self.machine.command("tar").arg("-C").arg(&tree).arg("-cf").arg(&tar).arg("."))?.ok()?;
            let sum = said(self.machine.command("sha256sum").arg(&tar))?.ok()?.out;
            plain.push(format!("\"sha256:{}\"", sum.split(' ').next().unwrap_or_default()));
            said(self.machine.command("gzip").arg("-kf").arg(&tar))?.ok()?;
            let (digest, size) = self.blob(repository, &folder.join(format!("{name}.tar.gz")))?;
            let kind = "application/vnd.docker.image.rootfs.diff.tar.gzip";
            layers.push(format!(r#"{{"mediaType":"{kind}","size":{size},"digest":"{digest}"}}"#));
        }
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["sh","-c","cat /etc/from; sleep 1000"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            plain.join(",")
        );
        let (digest, size) = self.blob(repository, &self.machine.file("config.json", &config)?)?;
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","size":{size},"digest":"{digest}"}},"layers":[{}]}}"#,
            layers.join(",")
        );
        let manifest = self.machine.file("manifest.json", &manifest)?;
        let sum = said(self.machine.command("sha256sum").arg(&manifest))?.ok()?.out;
        let (data, kind) = (format!("@{}", manifest.display()), format!("Content-Type: {kind}"));
        let url = format!("http://{REGISTRY}/v2/{repository}/manifests/{tag}");
        self.curl(&["-f", "-X", "PUT", "-H", &kind, "--data-binary", &data, &url])?;
        Ok(format!("sha256:{}", sum.split(' ').next().unwrap_or_default()))
    }
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        // What runs is a child of this one, in the machine's process namespace: it ends with the machine at the latest.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{{more} "terminationGracePeriodSeconds": 0,
         "containers": [{{"name": "c", "image": "{image}", "imagePullPolicy": "Always"}}]}}}}"#
    )
}

fn apply(machine: &Machine, name: &str, manifest: &str) -> Result<()> {
    let file = machine.file(&format!("{name}.json"), manifest)?;
    machine.kubectl(&["apply", "-f", &file.to_string_lossy()])?.ok().map(drop)
}

#[test]
fn images_come_by_tag_and_by_digest() -> Result<()> {
    let machine = Machine::new()?;
    machine.busybox_image()?;
    let registry = Registry::start(&machine, false)?;
    let digest = registry.push("test/web", "1")?;
    let pulled = said(&mut machine.portolan(&["image", "pull", &format!("{REGISTRY}/test/web:1")]))?.ok()?;
    assert!(pulled.out.starts_with(&format!("pulled {REGISTRY}/test/web:1 in ")), "{}", pulled.out);
    let none = said(&mut machine.portolan(&["image", "pull", &format!("{REGISTRY}/test/none:1")]))?;
    assert!(none.code != Some(0) && none.err.contains("test/none:1"), "{}", none.err);

    machine.up(&[])?;
    apply(&machine, "tag", &pod("tag", &format!("{REGISTRY}/test/web:1"), ""))?;
    apply(&machine, "digest", &pod("digest", &format!("{REGISTRY}/test/web@{digest}"), ""))?;
    let wrong = format!("sha256:{}", "0".repeat(64));
    apply(&machine, "wrong", &pod("wrong", &format!("{REGISTRY}/test/web@{wrong}"), ""))?;
    for name in ["tag", "digest"] {
        let ready = format!("pod/{name}");
        machine.kubectl(&["wait", "--for=condition=Ready", &ready, "--timeout=90s"])?.ok()?;
        assert_eq!(machine.kubectl(&["logs", name])?.ok()?.out, "test/web\n");
    }
    until("the wrong one is said to be", || {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        let reason = machine.kubectl(&["get", "pod", "wrong", "-o", path])?.ok()?.out;
        ensure!(matches!(reason.as_str(), "ErrImagePull" | "ImagePullBackOff"), "{reason}");
        Ok(())
    })?;
    let events = machine
        .kubectl(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason} {.message}{\"\\n\"}{end}"])?
        .ok()?
        .out;
    let image = format!("{REGISTRY}/test/web:1");
    assert!(events.contains(&format!("Pulling Pulling image \"{image}\"")), "{events}");
    assert!(events.contains(&format!("Pulled Successfully pulled image \"{image}\" in ")), "{events}");
    Ok(())
}

#[test]
fn a_private_registry_asks_for_a_login() -> Result<()> {
    let machine = Machine::new()?;
    machine.busybox_image()?;
    let registry = Registry::start(&machine, true)?;
    registry.push("private/web", "1")?;
    let image = format!("{REGISTRY}/private/web:1");
    machine.up(&[])?;
    let server = format!("--docker-server={REGISTRY}");
    let create = [
        "create",
        "secret",
        "docker-registry",
        "login",
        &server,
        "--docker-username=user",
        "--docker-password=swordfish",
    ];
    machine.kubectl(&create)?.ok()?;
    apply(&machine, "with", &pod("with", &image, r#""imagePullSecrets": [{"name": "login"}],"#))?;
    apply(&machine, "without", &pod("without", &image, ""))?;
    machine.kubectl(&["wait", "--for=condition=Ready", "pod/with", "--timeout=90s"])?.ok()?;
    until("it is refused", || {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        let reason = machine.kubectl(&["get", "pod", "without", "-o", path])?.ok()?.out;
        ensure!(matches!(reason.as_str(), "ErrImagePull" | "ImagePullBackOff"), "{reason}");
        Ok(())
    })?;
    let ready = machine.kubectl(&[
        "get",
        "nodes",
        "-o",
        "jsonpath={.items[0].status.conditions[?(@.type=='Ready')].status}",
    ])?;
    assert_eq!(ready.ok()?.out, "True");
    Ok(())
}
