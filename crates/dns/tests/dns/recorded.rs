//! What CoreDNS answered to some hundred questions, and what the Kubernetes DNS specification wants instead where the two differ: our
//! server, asked the same over real sockets, must answer as one of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use dns::wire::name::address_label;
use hickory_proto::op::Message;
use hickory_proto::rr::{Record, RecordType};
use serde_json::{Value, json};

use crate::support::outside::Outside;
use crate::support::{PATIENCE, Running, config, slice, small_api};

const RECORDED: &str = include_str!("../data/queries.json");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_query_is_answered_as_well_or_better() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let outside = Outside::start(&recorded["outside"], &recorded["outside_negative_soa"]);
    let api = small_api();
    api.apply(&slice("default", "kubernetes", &["192.0.2.1"]));
    for object in recorded["world"].as_array().unwrap() {
        let text = object.to_string().replace("<server-ip>", "127.0.0.1");
        api.apply(&serde_json::from_str(&text).unwrap());
    }
    let running = Running::start(config(vec![outside.address]), api).synced().await;
    let server = running.address;
    let queries = recorded["queries"].as_array().unwrap().clone();
    let faults = tokio::task::spawn_blocking(move || {
        let judged = queries.iter().filter_map(|query| Some((query["id"].as_str()?, judge(query, server)?)));
        judged.map(|(id, fault)| format!("{id}: {fault}")).collect::<Vec<_>>()
    });
    let faults = faults.await.unwrap();
    running.stop().await;
    assert!(faults.is_empty(), "{} queries are answered otherwise:\n{}", faults.len(), faults.join("\n"));
}

/// What was heard.
enum Heard {
    Reply(Box<Message>, usize),
    /// Bytes that no parser takes: an opcode that nobody knows.
    Unparsed(Vec<u8>),
    Nothing,
}

/// The fault; none if one of the replies that are fine was given.
fn judge(query: &Value, server: SocketAddr) -> Option<String> {
    let question = question(query);
    let heard = match query["transport"].as_str() {
        Some("tcp") => ask_tcp(server, &question, query["raw_tcp"].as_str()),
        _ => ask_udp(server, &question),
    };
    let reply = &query["reply"];
    let first = differs(reply, &heard, query)?;
    let accepted = query["accept"].as_array().into_iter().flatten().any(|accept| accepts(accept, &heard));
    if accepted { None } else { Some(first) }
}

fn question(query: &Value) -> Vec<u8> {
    if let Some(raw) = query["raw"].as_str() {
        return (0..raw.len() / 2).map(|at| u8::from_str_radix(&raw[at * 2..at * 2 + 2], 16).unwrap()).collect();
    }
    let Some(kind) = query["type"].as_str().filter(|kind| *kind != "-") else { return Vec::new() };
    let opcode = match query["opcode"].as_str() {
        None => 0,
        Some("IQUERY") => 1,
        Some("STATUS") => 2,
        Some("NOTIFY") => 4,
        Some("UPDATE") => 5,
        Some("DSO") => 6,
        Some(other) => panic!("{other}"),
    };
    let class: u16 = if query["class"] == "CH" { 3 } else { 1 };
    let edns = query["edns"].as_u64();
    let mut bytes = vec![0xab, 0xcd, opcode << 3 | 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    for label in escaped_labels(query["name"].as_str().unwrap()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label);
    }
    bytes.push(0);
    let kind = match kind {
        "IXFR" => 251,
        known => u16::from(known.parse::<RecordType>().unwrap()),
    };
    bytes.extend(kind.to_be_bytes());
    bytes.extend(class.to_be_bytes());
    if let Some(payload) = edns {
        bytes.extend([0, 0, 41]);
        bytes.extend(u16::try_from(payload).unwrap().to_be_bytes());
        bytes.extend([0; 6]);
    }
    bytes
}

/// Labels of a text with `\000` for bytes.
fn escaped_labels(name: &str) -> Vec<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut labels = vec![Vec::new()];
    let mut rest = name.as_bytes();
    while let Some((&byte, more)) = rest.split_first() {
        rest = more;
        match byte {
            b'.' => labels.push(Vec::new()),
            b'\\' => {
                labels.last_mut().unwrap().push(std::str::from_utf8(&rest[..3]).unwrap().parse().unwrap());
                rest = &rest[3..];
            }
            byte => labels.last_mut().unwrap().push(byte),
        }
    }
    labels.retain(|label| !label.is_empty());
    labels
}

/// Silence is told from a late answer by a second question: a socket is answered in order, so its answer comes after the first's.
fn ask_udp(server: SocketAddr, question: &[u8]) -> Heard {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    socket.send(question).unwrap();
    let must_answer = question.len() >= 12 && question[2] & 0x80 == 0;
    let second = crate::support::query("second.cluster.local.", "A").to_vec().unwrap();
    if !must_answer {
        socket.send(&second).unwrap();
    }
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).unwrap();
    if buffer[..2] == second[..2] && !must_answer { Heard::Nothing } else { heard(&buffer[..length]) }
}

fn ask_tcp(server: SocketAddr, question: &[u8], raw: Option<&str>) -> Heard {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match raw {
        Some(raw) => {
            let bytes: Vec<u8> =
                (0..raw.len() / 2).map(|at| u8::from_str_radix(&raw[at * 2..at * 2 + 2], 16).unwrap()).collect();
            stream.write_all(&bytes).unwrap();
        }
        None => {
            stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(question).unwrap();
        }
    }
    let mut length = [0; 2];
    if stream.read_exact(&mut length).is_err() {
        return Heard::Nothing;
    }
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    heard(&answer)
}

fn heard(bytes: &[u8]) -> Heard {
    match Message::from_vec(bytes) {
        Ok(message) => Heard::Reply(Box::new(message), bytes.len()),
        Err(_) => Heard::Unparsed(bytes.to_vec()),
    }
}

fn code(heard: &Heard) -> String {
    let text =
        |code: u16| ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"].get(usize::from(code)).copied();
    let code = match heard {
        Heard::Reply(message, _) => u16::from(message.metadata.response_code),
        Heard::Unparsed(bytes) => u16::from(bytes[3] & 0x0f),
        Heard::Nothing => return "timeout".to_owned(),
    };
    text(code).map_or_else(|| code.to_string(), str::to_owned)
}

/// The strict rules of the recording: outcome, code, flags, answer, SOA of denials, truncation.
fn differs(reply: &Value, heard: &Heard, query: &Value) -> Option<String> {
    let silent = matches!(reply["outcome"].as_str(), Some("timeout" | "stream" | "closed"));
    let message = match heard {
        Heard::Nothing if silent => return None,
        Heard::Nothing => return Some("no answer".into()),
        Heard::Reply(..) | Heard::Unparsed(_) if silent => return Some(format!("{} rather than silence", code(heard))),
        Heard::Unparsed(_) => return (reply["rcode"] != json!(code(heard))).then(|| code(heard)),
        Heard::Reply(message, _) => message,
    };
    if reply["rcode"] != json!(code(heard)) {
        return Some(format!("{} rather than {}", code(heard), reply["rcode"]));
    }
    let refused = !matches!(code(heard).as_str(), "NOERROR" | "NXDOMAIN");
    let flags = |flag: &str| reply["flags"].as_array().unwrap().contains(&json!(flag));
    let outside = flags("RA");
    if !refused && !outside && flags("AA") != message.metadata.authoritative {
        return Some(format!("AA is {}", message.metadata.authoritative));
    }
    if flags("TC") != message.metadata.truncation || flags("RD") != message.metadata.recursion_desired {
        return Some("TC or RD differ".into());
    }
    let full = if flags("TC") { &reply["over_tcp"] } else { reply };
    let (expected, got) = (expected_answer(full), answer(message));
    if flags("TC") {
        let limit = query["edns"].as_u64().unwrap_or(512).max(512);
        let Heard::Reply(_, size) = heard else { return None };
        let strange: Vec<_> = got.iter().filter(|record| !expected.contains(record)).collect();
        return (!strange.is_empty() || *size as u64 > limit).then(|| format!("{size} bytes, not in it: {strange:?}"));
    }
    if expected != got {
        return Some(format!("{got:?} rather than {expected:?}"));
    }
    if reply["cname_first"] == json!(true) && message.answers[0].record_type() != RecordType::CNAME {
        return Some("the alias does not come first".into());
    }
    let soa = |text: &str| text.contains(" SOA ").then(|| text.split(' ').next().unwrap().to_lowercase());
    let wanted = reply["authority"].as_array().into_iter().flatten().find_map(|record| soa(record.as_str().unwrap()));
    let soas = message.authorities.iter().filter(|record| record.record_type() == RecordType::SOA);
    let soas: Vec<String> = soas.map(|record| record.name.to_lowercase().to_string()).collect();
    (!refused && got.is_empty() && wanted.iter().ne(soas.first()))
        .then(|| format!("SOA {soas:?} rather than {wanted:?}"))
}

fn accepts(accept: &Value, heard: &Heard) -> bool {
    if accept["outcome"].is_string() {
        return matches!(heard, Heard::Nothing);
    }
    if accept["rcode"] != json!(code(heard)) {
        return false;
    }
    let got = match heard {
        Heard::Reply(message, _) => answer(message),
        Heard::Unparsed(_) | Heard::Nothing => Vec::new(),
    };
    let whole = accept.get("answer").is_none_or(|_| expected_answer(accept) == got);
    let part = accept["answer_has"].as_array().into_iter().flatten().map(|record| plain(record.as_str().unwrap()));
    whole && part.into_iter().all(|record| got.iter().any(|known| matches_stars(&record, known)))
}

fn matches_stars(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<&str>, Vec<&str>) = (pattern.split(' ').collect(), text.split(' ').collect());
    pattern.len() == text.len() && pattern.iter().zip(&text).all(|(pattern, word)| *pattern == "*" || pattern == word)
}

fn expected_answer(reply: &Value) -> Vec<String> {
    let records = reply["answer"].as_array().into_iter().flatten();
    let mut all: Vec<String> = records.map(|record| plain(record.as_str().unwrap())).collect();
    all.sort();
    all
}

/// A recorded record in lower case, endpoints by the names that we give them, SRV without priority and weight, SOA without data.
fn plain(record: &str) -> String {
    let mut text = record.to_owned();
    while let Some(at) = text.find("{endpoint ") {
        let end = at + text[at..].find('}').unwrap();
        let label = address_label(text[at + 10..end].parse().unwrap());
        text.replace_range(at..=end, &label);
    }
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        [owner, class, "SRV", _, _, rest @ ..] => format!("{owner} {class} SRV {}", rest.join(" ")),
        [owner, class, "SOA", ..] => format!("{owner} {class} SOA"),
        _ => text,
    }
    .to_lowercase()
}

fn answer(message: &Message) -> Vec<String> {
    let mut all: Vec<String> = message.answers.iter().map(text_of).collect();
    all.sort();
    all
}

fn text_of(record: &Record) -> String {
    let (name, class, kind) = (record.name.to_string(), record.dns_class, record.record_type());
    let data = match kind {
        RecordType::TXT => format!("\"{}\"", record.data),
        _ => record.data.to_string(),
    };
    plain(&format!("{name} {class} {kind} {data}"))
}
