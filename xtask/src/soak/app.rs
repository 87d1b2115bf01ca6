//! The app under load: HTTP on TCP port 8080 with keep-alive, echo on UDP port 8080, both saying who answered.
//!
//! It is compiled by itself with `rustc` alone, as a static program, and knows nothing of signals: the shell that started it ends at once
//! on SIGTERM, and with it the container.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;

fn main() -> std::io::Result<()> {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    let udp = UdpSocket::bind("0.0.0.0:8080")?;
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..length], from);
        }
    });
    for stream in TcpListener::bind("0.0.0.0:8080")?.incoming().flatten() {
        let name = name.clone();
        thread::spawn(move || serve(stream, &name));
    }
    Ok(())
}

/// Answers requests until the client closes or asks for the end of the connection.
fn serve(stream: TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let (mut lines, mut close) = (0, false);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            lines += 1;
            close |= line.to_ascii_lowercase().starts_with("connection: close");
            if line.trim().is_empty() && lines > 1 {
                break;
            }
        }
        let ending = if close { "close" } else { "keep-alive" };
        write!(writer, "HTTP/1.1 200 OK\r\nConnection: {ending}\r\nContent-Length: {}\r\n\r\n{name}", name.len())?;
        if close {
            return Ok(());
        }
    }
}
