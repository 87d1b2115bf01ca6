//! The smallest program that can be started as a pod shim, for the tests of this crate: `Libcontainer::with_shim`.

fn main() {
    let mut args = std::env::args_os().skip(1);
    let code = match args.next() {
        Some(first) if first == "shim" => containers::shim::main(args),
        Some(_) | None => 2,
    };
    std::process::exit(code);
}
