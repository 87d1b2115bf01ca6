//! A resolver outside: it knows the names that it is given, follows their aliases, denies all others, and counts what it is asked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::Value;

#[derive(Clone)]
pub struct Outside {
    pub address: SocketAddr,
    names: Arc<BTreeMap<String, Value>>,
    soas: Arc<Vec<(Name, SOA)>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Outside {
    /// `names`: records as [type, ttl, data], or a behaviour; `soas`: the SOA of denials below each name.
    pub fn start(names: &Value, soas: &Value) -> Self {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).unwrap();
        let lower = |(name, value): (&String, &Value)| (name.to_lowercase(), value.clone());
        let names = names.as_object().unwrap().iter().map(lower).collect();
        let soas = soas.as_object().unwrap().iter();
        let mut soas: Vec<(Name, SOA)> =
            soas.map(|(name, soa)| (Name::from_ascii(name).unwrap(), soa_of(soa.as_str().unwrap()))).collect();
        soas.sort_by_key(|(name, _)| std::cmp::Reverse(name.num_labels()));
        let outside = Outside { address, names: Arc::new(names), soas: Arc::new(soas), asked: Arc::default() };
        let (over_udp, over_tcp) = (outside.clone(), outside.clone());
        thread::spawn(move || over_udp.serve_udp(&udp));
        thread::spawn(move || over_tcp.serve_tcp(&tcp));
        outside
    }

    /// A resolver that knows nothing.
    pub fn empty() -> Self {
        Self::start(&serde_json::json!({}), &serde_json::json!({".": "a. b. 1 1800 900 604800 60"}))
    }

    /// What it was asked so far, as `name type`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let Some(mut answer) = self.answer(&buffer[..length]) else { continue };
            let limit = answer.edns.as_ref().map_or(512, |edns| usize::from(edns.max_payload()));
            let mut bytes = answer.to_vec().unwrap();
            if bytes.len() > limit {
                answer.metadata.truncation = true;
                answer.answers.clear();
                bytes = answer.to_vec().unwrap();
            }
            socket.send_to(&bytes, client).unwrap();
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question).unwrap();
            let Some(answer) = self.answer(&question) else { continue };
            let bytes = answer.to_vec().unwrap();
            let framed = [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes.as_slice()].concat();
            stream.write_all(&framed).unwrap();
        }
    }

    fn answer(&self, question: &[u8]) -> Option<Message> {
        let query = Message::from_vec(question).ok()?;
        let asked = query.queries[0].clone();
        self.asked.lock().unwrap().push(format!("{} {}", asked.name().to_lowercase(), asked.query_type()));
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.metadata.recursion_available = true;
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.add_query(asked.clone());
        if let Some(edns) = query.edns {
            answer.set_edns(edns);
        }
        let mut name = asked.name().clone();
        loop {
            let records = match self.names.get(&name.to_lowercase().to_ascii()) {
                None => {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    break;
                }
                Some(Value::String(behaviour)) => {
                    answer.metadata.response_code = match behaviour.as_str() {
                        "DROP" => return None,
                        "SERVFAIL" => ResponseCode::ServFail,
                        "REFUSED" => ResponseCode::Refused,
                        "FORMERR" => ResponseCode::FormErr,
                        other => panic!("{other}"),
                    };
                    return Some(answer);
                }
                Some(records) => records.as_array().unwrap(),
            };
            let of = |kind: &str| records.iter().filter(move |record| record[0] == kind).collect::<Vec<_>>();
            let wanted = of(&asked.query_type().to_string());
            for record in &wanted {
                answer.add_answer(record_of(&name, record));
            }
            match of("CNAME").first() {
                Some(alias) if wanted.is_empty() => {
                    answer.add_answer(record_of(&name, alias));
                    name = Name::from_ascii(alias[2].as_str().unwrap()).unwrap();
                }
                _ => {
                    if !wanted.is_empty() {
                        return Some(answer);
                    }
                    break;
                }
            }
        }
        let (zone, soa) = self.soas.iter().find(|(zone, _)| zone.zone_of(&name)).unwrap();
        answer.add_authority(Record::from_rdata(zone.clone(), soa.minimum, RData::SOA(soa.clone())));
        Some(answer)
    }
}

fn record_of(name: &Name, record: &Value) -> Record {
    let ttl = u32::try_from(record[1].as_u64().unwrap()).unwrap();
    let text = record[2].as_str().unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let host = |text: &str| Name::from_ascii(text).unwrap();
    let number = |at: usize| words[at].parse().unwrap();
    let data = match record[0].as_str().unwrap().parse::<RecordType>().unwrap() {
        RecordType::A => RData::A(A(text.parse().unwrap())),
        RecordType::AAAA => RData::AAAA(AAAA(text.parse().unwrap())),
        RecordType::CNAME => RData::CNAME(CNAME(host(text))),
        RecordType::NS => RData::NS(NS(host(text))),
        RecordType::PTR => RData::PTR(PTR(host(text))),
        RecordType::TXT => RData::TXT(TXT::new(vec![text.trim_matches('"').to_owned()])),
        RecordType::MX => RData::MX(MX::new(number(0), host(words[1]))),
        RecordType::SRV => RData::SRV(SRV::new(number(0), number(1), number(2), host(words[3]))),
        RecordType::SOA => RData::SOA(soa_of(text)),
        other => panic!("{other}"),
    };
    Record::from_rdata(name.clone(), ttl, data)
}

fn soa_of(text: &str) -> SOA {
    let words: Vec<&str> = text.split_whitespace().collect();
    let number = |at: usize| words[at].parse::<i32>().unwrap();
    let host = |at: usize| Name::from_ascii(words[at]).unwrap();
    SOA::new(host(0), host(1), words[2].parse().unwrap(), number(3), number(4), number(5), words[6].parse().unwrap())
}
