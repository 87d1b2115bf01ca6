//! nginx and haproxy beside us: the shortest fair configuration of each (a worker a processor, kept connections to the backend, no log).

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use super::ingress::Running;
use crate::command::program;

/// The backend of all three: a line of text from an nginx of its own.
pub(super) fn backend(folder: &Path, address: &str) -> Result<Running> {
    let server = format!(
        "server {{ listen {address}:9000 backlog=4096; keepalive_requests 100000000; keepalive_timeout 1h;
         location / {{ default_type text/plain; return 200 'hello from the backend\\n'; }} }}"
    );
    start_nginx(folder, "backend", &server)
}

pub(super) fn nginx(folder: &Path, backend: &str, plain: u16, tls: u16) -> Result<Running> {
    let (crt, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    let server = format!(
        "upstream web {{ server {backend}:9000; keepalive 256; keepalive_requests 100000000; }}
         server {{ listen 127.0.0.1:{plain} backlog=4096; listen 127.0.0.1:{tls} ssl http2 backlog=4096; server_name bench.example;
         ssl_certificate {}; ssl_certificate_key {}; ssl_session_cache shared:s:10m;
         keepalive_requests 100000000; keepalive_timeout 1h;
         location / {{ proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $host;
         proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $remote_addr;
         proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host; }} }}",
        crt.display(),
        key.display()
    );
    start_nginx(folder, "nginx", &server)
}

fn start_nginx(folder: &Path, name: &str, server: &str) -> Result<Running> {
    let (pid, temporary) = (folder.join(format!("{name}.pid")), folder.join(format!("{name}.tmp")));
    fs::create_dir_all(&temporary)?;
    let temporary = temporary.display();
    let text = format!(
        "worker_processes auto; pid {}; error_log stderr crit; daemon off; user root;
         events {{ worker_connections 8192; }}
         http {{ access_log off; client_body_temp_path {temporary}/b; proxy_temp_path {temporary}/p; fastcgi_temp_path {temporary}/f;
         uwsgi_temp_path {temporary}/u; scgi_temp_path {temporary}/s; {server} }}",
        pid.display()
    );
    let file = folder.join(format!("{name}.conf"));
    fs::write(&file, text)?;
    let file = file.to_string_lossy();
    let started = program("nginx", &["-c", &file]).stdout(Stdio::null()).spawn().context("cannot start nginx")?;
    Ok(Running(started))
}

pub(super) fn haproxy(folder: &Path, backend: &str, plain: u16, tls: u16) -> Result<Running> {
    let text = format!(
        "global\n  maxconn 8192\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  option forwardfor\n  http-reuse always\n\
         frontend web\n  bind 127.0.0.1:{plain}\n  bind 127.0.0.1:{tls} ssl crt {} alpn h2,http/1.1\n  default_backend web\n\
         backend web\n  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n  server one {backend}:9000\n",
        folder.join("tls.pem").display()
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    let file = file.to_string_lossy();
    let started = program("haproxy", &["-q", "-db", "-f", &file]).stdout(Stdio::null()).spawn();
    Ok(Running(started.context("cannot start haproxy")?))
}
