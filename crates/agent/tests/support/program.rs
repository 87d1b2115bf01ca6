//! What runs inside the pods of these tests: one static program with a verb for each thing that is tested.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}

extern "C" fn leave_words(_: i32) {
    std::fs::write("/dev/termination-log", "told to go").unwrap();
    std::process::exit(5);
}

extern "C" fn leave(_: i32) {
    println!("leaving");
    std::process::exit(0);
}

fn main() {
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match verb.as_str() {
        "say" => println!("{}", rest.join(" ")),
        "exit" => std::process::exit(rest[0].parse().unwrap()),
        "die" => {
            std::fs::write("/dev/termination-log", &rest[0]).unwrap();
            std::process::exit(3);
        }
        "fail" => {
            println!("{}", rest.join(" "));
            std::process::exit(4);
        }
        "leave" => std::fs::write(&rest[0], &rest[1]).unwrap(),
        "link" => std::os::unix::fs::symlink(&rest[0], &rest[1]).unwrap(),
        "count" => {
            for n in 0..rest[0].parse::<u32>().unwrap() {
                println!("line {n}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        "stubborn" => forever(),
        "polite" => {
            // SAFETY: the handler only writes and exits; nothing else runs in this program.
            unsafe { signal(15, leave) };
            println!("here");
            forever();
        }
        "wordy" => {
            // SAFETY: the handler only writes and exits; nothing else runs in this program.
            unsafe { signal(15, leave_words) };
            println!("here");
            forever();
        }
        "once" => {
            // Fails the first time, and then no more: the file is in a volume.
            if !std::fs::exists(&rest[0]).unwrap() {
                std::fs::write(&rest[0], "").unwrap();
                std::process::exit(1);
            }
            forever();
        }
        "env" => {
            for (name, value) in std::env::vars() {
                println!("{name}={value}");
            }
        }
        "ls" => {
            let entries = std::fs::read_dir(&rest[0]).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            println!("{}", names.join(" "));
        }
        "write" => match std::fs::write(&rest[0], &rest[1]) {
            Ok(()) => println!("written"),
            Err(e) => println!("{e}"),
        },
        "stat" => {
            use std::os::unix::fs::MetadataExt;
            for path in &rest {
                let meta = std::fs::metadata(path).unwrap();
                println!("{:o} {} {} {}", meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.size());
            }
        }
        "processes" => {
            let entries = std::fs::read_dir("/proc").unwrap().flatten();
            let entries = entries.filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok());
            let commands = entries.filter_map(|e| std::fs::read_to_string(e.path().join("cmdline")).ok());
            let mut commands: Vec<_> = commands.map(|c| c.trim_end_matches('\0').replace('\0', " ")).collect();
            commands.retain(|c| !c.is_empty());
            commands.sort();
            println!("{}", commands.join(","));
        }
        "cat" => {
            for path in &rest {
                print!("{}", std::fs::read_to_string(path).unwrap_or_else(|e| format!("{path}: {e}\n")));
            }
        }
        "exists" => std::process::exit(i32::from(!std::fs::exists(&rest[0]).unwrap())),
        "eat" => {
            let mut all: Vec<Vec<u8>> = Vec::new();
            loop {
                all.push(vec![1; 1 << 20]);
            }
        }
        "udp" => {
            let socket = std::net::UdpSocket::bind(("0.0.0.0", rest[0].parse().unwrap())).unwrap();
            loop {
                let (_, client) = socket.recv_from(&mut [0; 1024]).unwrap();
                let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
                socket.send_to(name.as_bytes(), client).unwrap();
            }
        }
        "serve" => serve(rest[0].parse().unwrap()),
        other => {
            eprintln!("what is `{other}`?");
            std::process::exit(2);
        }
    }
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Answers 503 while `/flags/unready` is there, and the host name otherwise.
fn serve(port: u16) {
    // Both families, where there are two.
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port))).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let status = if std::fs::exists("/flags/unready").unwrap() { "503 Unavailable" } else { "200 OK" };
        let body = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let length = body.len();
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    }
}
