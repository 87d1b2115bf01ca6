//! Exec and attach: pipes, terminals, ends, and clients that do not behave.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, like the test")]

mod support;

use containers::runtime::{ContainerConfig, ExecConfig, Output, Runtime, Streams};
use support::{Lab, SANDBOX, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn read_until(output: &mut Output, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.ends_with(end) {
        let n = output.read(&mut buffer).await.unwrap();
        assert!(n > 0, "the stream ended after {text:?}, before {end:?}");
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    text
}

fn exec_config(command: &[&str], tty: bool) -> ExecConfig {
    let command = command.iter().map(|c| c.to_string()).collect();
    ExecConfig { command, tty, stdin: true, stdout: true, stderr: !tty }
}

#[tokio::test]
async fn exec_passes_bytes_and_ends_in_both_directions() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    lab.run("main", &["sleep"]).await;
    let exec = lab.runtime.exec(SANDBOX, "main", exec_config(&["/program", "copy"], false)).await.unwrap();
    let Streams { stdin, stdout, .. } = exec.streams;
    let (mut stdin, mut stdout) = (stdin.unwrap(), stdout.unwrap());
    // More than any pipe holds, and not text.
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move { stdin.write_all(&sent).await.unwrap() }
    });
    let mut received = Vec::new();
    stdout.read_to_end(&mut received).await.unwrap();
    writing.await.unwrap();
    assert!(sent == received);
    assert_eq!(exec.exit.await.unwrap(), 0);
}

#[tokio::test]
async fn exec_in_a_terminal_can_be_resized() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    lab.run("main", &["sleep"]).await;
    let exec = lab.runtime.exec(SANDBOX, "main", exec_config(&["/program", "terminal"], true)).await.unwrap();
    let mut streams = exec.streams;
    let (stdin, stdout) = (streams.stdin.as_mut().unwrap(), streams.stdout.as_mut().unwrap());
    assert_eq!(read_until(stdout, "ready\r\n").await, "terminal: true\r\nready\r\n");
    streams.terminal.as_ref().unwrap().resize(123, 45).unwrap();
    assert_eq!(lab.terminal_size(), (123, 45));
    stdin.write_all(b"hello\n").await.unwrap();
    // The terminal repeats what is typed.
    assert_eq!(read_until(stdout, "got hello\r\n").await, "hello\r\ngot hello\r\n");
    stdin.write_all(&[4]).await.unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye\r\n");
    assert_eq!(exec.exit.await.unwrap(), 0);
}

#[tokio::test]
async fn a_dropped_exec_is_killed() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    lab.run("main", &["sleep"]).await;
    let exec = lab.runtime.exec(SANDBOX, "main", exec_config(&["/program", "sleep"], false)).await.unwrap();
    eventually("it runs", async || (lab.processes() == 2).then_some(())).await;
    drop(exec);
    eventually("it is killed", async || (lab.processes() == 1).then_some(())).await;
}

#[tokio::test]
async fn attach_reads_along_and_writes_to_stdin() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    let config = ContainerConfig { stdin: true, stdin_once: true, ..lab.container_config("main", &["lines"]) };
    lab.create_and_start(config).await;
    let mut reader = lab.runtime.attach(SANDBOX, "main", false).await.unwrap();
    let mut writer = lab.runtime.attach(SANDBOX, "main", true).await.unwrap();
    writer.stdin.as_mut().unwrap().write_all(b"one\ntwo\n").await.unwrap();
    for streams in [&mut reader, &mut writer] {
        assert_eq!(read_until(streams.stdout.as_mut().unwrap(), "two\n").await, "got one\ngot two\n");
    }
    writer.stdin = None;
    let mut rest = String::new();
    reader.stdout.unwrap().read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "end\n");
    assert_eq!(lab.exit("main").await.code, 0);
    assert_eq!(lab.log("main"), "stdout F got one\nstdout F got two\nstdout F end\n");
    assert!(lab.runtime.attach(SANDBOX, "main", false).await.is_err());
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_nobody() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    let config = ContainerConfig { stdin: true, ..lab.container_config("main", &["wait-then-flood", "60000"]) };
    lab.create_and_start(config).await;
    let mut lazy = lab.runtime.attach(SANDBOX, "main", true).await.unwrap();
    lazy.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    assert_eq!(lab.exit("main").await.code, 0);
    assert_eq!(lab.log("main").lines().count(), 60_000);
}

#[tokio::test]
async fn a_container_can_have_a_terminal() {
    let lab = Lab::new().await;
    lab.sandbox().await;
    let config = ContainerConfig { tty: true, stdin: true, ..lab.container_config("main", &["terminal"]) };
    lab.create_and_start(config).await;
    eventually("it is ready", async || lab.log("main").contains("ready").then_some(())).await;
    let mut streams = lab.runtime.attach(SANDBOX, "main", true).await.unwrap();
    streams.terminal.as_ref().unwrap().resize(80, 25).unwrap();
    assert_eq!(lab.terminal_size(), (80, 25));
    streams.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    let text = read_until(streams.stdout.as_mut().unwrap(), "got hello\r\n").await;
    assert_eq!(text, "hello\r\ngot hello\r\n");
    streams.stdin.as_mut().unwrap().write_all(&[4]).await.unwrap();
    assert_eq!(lab.exit("main").await.code, 0);
    assert!(lab.log("main").ends_with("stdout F got hello\nstdout F bye\n"), "{:?}", lab.log("main"));
}
