//! What runs inside the containers of these tests: one static program with a verb for each thing that is tested.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::time::Duration;

fn main() {
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match verb.as_str() {
        "say" => println!("{}", rest.join(" ")),
        "both" => {
            println!("to stdout");
            eprintln!("to stderr");
        }
        "exit" => std::process::exit(rest[0].parse().unwrap()),
        "sleep" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        "env" => {
            let mut all: Vec<_> = std::env::vars().map(|(k, v)| format!("{k}={v}")).collect();
            all.sort();
            println!("{}", all.join("\n"));
        }
        "cat" => {
            for path in &rest {
                print!("{}", std::fs::read_to_string(path).unwrap_or_else(|e| format!("{path}: {e}\n")));
            }
        }
        "write" => match std::fs::write(&rest[0], &rest[1]) {
            Ok(()) => println!("written"),
            Err(e) => println!("{e}"),
        },
        "mkdir" => match std::fs::create_dir(&rest[0]) {
            Ok(()) => println!("made"),
            Err(e) => println!("{e}"),
        },
        "hostname" => print!("{}", std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap()),
        "links" => {
            let links = rest.iter().map(|p| std::fs::read_link(p).map(|l| l.display().to_string()));
            println!("{}", links.map(|l| l.unwrap_or_else(|e| e.to_string())).collect::<Vec<_>>().join(" "));
        }
        "cwd" => println!("{}", std::env::current_dir().unwrap().display()),
        "eat" => {
            let mut eaten: Vec<Vec<u8>> = Vec::new();
            loop {
                eaten.push(vec![1; 1 << 20]);
            }
        }
        "children" => {
            for _ in 0..3 {
                std::process::Command::new("/program").arg("sleep").spawn().unwrap();
            }
            println!("spawned");
            std::thread::sleep(Duration::from_secs(3600));
        }
        "list" => {
            let mut names: Vec<_> = std::fs::read_dir(&rest[0])
                .unwrap()
                .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            println!("{}", names.join(" "));
        }
        other => streams(other, &rest),
    }
}

/// The verbs that read and write.
fn streams(verb: &str, rest: &[String]) {
    match verb {
        "copy" => {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text).unwrap();
            std::io::stdout().write_all(&text).unwrap();
        }
        "lines" => {
            for line in std::io::stdin().lock().lines() {
                println!("got {}", line.unwrap());
            }
            println!("end");
        }
        "count" => {
            for n in 0.. {
                println!("{n}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        "flood" => {
            let line = [b"x".repeat(99), vec![b'\n']].concat();
            let mut out = std::io::stdout().lock();
            for _ in 0..rest[0].parse::<u64>().unwrap() {
                out.write_all(&line).unwrap();
            }
        }
        "wait-then-flood" => {
            std::io::stdin().lock().read_line(&mut String::new()).unwrap();
            for n in 0..rest[0].parse::<u64>().unwrap() {
                println!("{n}");
            }
        }
        "terminal" => {
            println!("terminal: {}", std::io::stdin().is_terminal());
            println!("ready");
            for line in std::io::stdin().lock().lines() {
                println!("got {}", line.unwrap());
            }
            println!("bye");
        }
        other => {
            eprintln!("unknown verb `{other}`");
            std::process::exit(99);
        }
    }
}
