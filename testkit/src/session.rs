//! Sessions of a command-line client: a text file of commands with what they print.
//!
//! A line `$ command`, then what it prints, its complaints marked with `! `, and `exit CODE` where it is not 0. What a server chooses
//! (ages, addresses, UIDs, times, node ports) is replaced by [`normal`] before comparing. Lines `% command` are run and must succeed,
//! lines `? command` are run again until they do; what those print is nobody's business.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// How a command is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What it prints is compared.
    Compared,
    /// It must succeed.
    Needed,
    /// It must succeed at some time.
    Awaited,
}

/// A command with what it is expected to print.
#[derive(Debug)]
pub struct Line<'a> {
    pub step: Step,
    pub command: &'a str,
    pub expected: String,
}

/// The commands of a session; what stands before the first is about the file.
pub fn lines(session: &str) -> Vec<Line<'_>> {
    let mut all: Vec<(Step, &str, Vec<&str>)> = Vec::new();
    for line in session.lines().skip_while(|line| line.starts_with('#')) {
        let begun = line.split_once(' ').and_then(|(mark, command)| match mark {
            "$" => Some((Step::Compared, command)),
            "%" => Some((Step::Needed, command)),
            "?" => Some((Step::Awaited, command)),
            _ => None,
        });
        match (begun, all.last_mut()) {
            (Some((step, command)), _) => all.push((step, command, Vec::new())),
            (None, Some((_, _, said))) => said.push(line),
            (None, None) => {}
        }
    }
    let lines = all.into_iter().map(|(step, command, said)| Line {
        step,
        command,
        expected: said.join("\n").trim_end().to_owned(),
    });
    lines.collect()
}

/// Runs a command in a shell, in `folder`, with `kubectl` and the configuration that are below `home`.
pub fn run(command: &str, folder: &Path, home: &Path) -> std::io::Result<Output> {
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", home.join("bin").display()))
        .env("KUBECONFIG", home.join("kubeconfig"))
        .env("HOME", home)
        .output()
}

/// What a command printed, as a session writes it.
pub fn said(output: &Output) -> String {
    let mut said: Vec<String> = normal_lines(&output.stdout);
    let complaints = normal_lines(&output.stderr);
    said.extend(complaints.iter().filter(|line| !is_about_versions(line)).map(|line| format!("! {line}")));
    if let Some(code) = output.status.code().filter(|code| *code != 0) {
        said.push(format!("exit {code}"));
    }
    said.join("\n").trim_end().to_owned()
}

fn normal_lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(normal).collect()
}

/// Each kubectl says of itself what it thinks of a newer server.
fn is_about_versions(line: &str) -> bool {
    line.contains("version difference between client") || line.contains("--profile=legacy is deprecated")
}

/// A line without what only the server that gave it could know; columns stand two spaces apart.
pub fn normal(line: &str) -> String {
    let words: Vec<String> = line.split(' ').map(word).collect();
    let line = words.join(" ");
    // Newer kubectls say which namespace they mean.
    let line = line.replace(" from default namespace", "");
    let indent = line.len() - line.trim_start().len();
    let columns: Vec<&str> = line.trim().split("  ").map(str::trim).filter(|column| !column.is_empty()).collect();
    format!("{}{}", " ".repeat(indent), columns.join("  ")).trim_end().to_owned()
}

fn word(word: &str) -> String {
    let bare = word.trim_matches(|c: char| matches!(c, '"' | ',' | '(' | ')' | '\''));
    let replaced = if bare.starts_with("10.96.")
        && bare.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.octets() != [10, 96, 0, 1])
    {
        "<ip>"
    } else if is_age(bare) {
        "<age>"
    } else if bare.len() == 36 && bare.split('-').map(str::len).eq([8, 4, 4, 4, 12]) {
        "<uid>"
    } else if bare.len() == 20 && bare.ends_with('Z') && bare.contains('T') {
        "<time>"
    } else if let Some((name, _)) = bare.split_once("X509SHA256=") {
        return word.replace(bare, &format!("{name}X509SHA256=<hash>]"));
    } else {
        return node_ports(word);
    };
    word.replace(bare, replaced)
}

/// `3s`, `2m5s`.
fn is_age(text: &str) -> bool {
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        match rest.get(digits..digits + 1) {
            Some("s" | "m" | "h" | "d" | "y") if digits > 0 => rest = &rest[digits + 1..],
            _ => return false,
        }
        parts += 1;
    }
    parts > 0
}

/// `80:30123/TCP` with a port that was chosen.
fn node_ports(word: &str) -> String {
    let port = |port: &str| {
        let (number, rest) = port.split_once('/').unwrap_or((port, ""));
        let chosen = number.parse::<u16>().is_ok_and(|number| (30_000..=32_767).contains(&number));
        let shown = if chosen { "<port>" } else { number };
        if rest.is_empty() { shown.to_owned() } else { format!("{shown}/{rest}") }
    };
    word.split(':').map(port).collect::<Vec<_>>().join(":")
}

/// The kubectls to try, newest last: those of the environment, or the one on the path.
pub fn kubectls() -> Vec<PathBuf> {
    let named = ["KUBECTL_OLDEST", "KUBECTL_NEWEST"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let named: Vec<PathBuf> = named.collect();
    if !named.is_empty() {
        return named;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|kubectl| kubectl.is_file());
    found.into_iter().collect()
}
