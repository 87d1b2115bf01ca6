//! The grammar of label selectors: a scanner for words and operators, and one function a rule.

use std::collections::BTreeSet;

use super::{Operator, Requirement, SelectorError, check_key};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Word,
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    Not,
    Comma,
    Open,
    Close,
    Unknown,
    End,
}

/// All requirements of a selector, in the order written.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: scan(text), at: 0 };
    let mut all = Vec::new();
    loop {
        match parser.peek_value() {
            (Token::Word | Token::Not, _) => {
                let requirement =
                    parser.requirement().map_err(|error| fault(format!("unable to parse requirement: {error}")))?;
                all.push(requirement);
                match parser.next_value() {
                    (Token::End, _) => return Ok(all),
                    (Token::Comma, _) => {
                        let (token, text) = parser.peek_value();
                        if token != Token::Word && token != Token::Not {
                            return Err(fault(format!("found '{text}', expected: identifier after ','")));
                        }
                    }
                    (_, text) => return Err(fault(format!("found '{text}', expected: ',' or 'end of string'"))),
                }
            }
            (Token::End, _) => return Ok(all),
            (_, text) => return Err(fault(format!("found '{text}', expected: !, identifier, or 'end of string'"))),
        }
    }
}

fn fault(text: String) -> SelectorError {
    SelectorError(text)
}

struct Parser {
    /// Ends with `Token::End`.
    tokens: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> (Token, String) {
        self.tokens.get(self.at).cloned().unwrap_or((Token::End, String::new()))
    }

    /// Where a value may stand, `in` and `notin` are words like any other.
    fn peek_value(&self) -> (Token, String) {
        match self.peek() {
            (Token::In | Token::NotIn, text) => (Token::Word, text),
            other => other,
        }
    }

    fn next_value(&mut self) -> (Token, String) {
        let token = self.peek_value();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut key) = self.next_value();
        let not = token == Token::Not;
        if not {
            (token, key) = self.next_value();
        }
        if token != Token::Word {
            return Err(fault(format!("found '{key}', expected: identifier")));
        }
        check_key(&key)?;
        let alone = matches!(self.peek_value().0, Token::End | Token::Comma);
        if not || alone {
            let operator = if not { Operator::DoesNotExist } else { Operator::Exists };
            return Requirement::new(key, operator, BTreeSet::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.set()?,
            Operator::Equals
            | Operator::DoubleEquals
            | Operator::NotEquals
            | Operator::GreaterThan
            | Operator::LessThan
            | Operator::Exists
            | Operator::DoesNotExist => self.exact()?,
        };
        Requirement::new(key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        let (token, text) = self.peek();
        self.at += 1;
        match token {
            Token::In => Ok(Operator::In),
            Token::NotIn => Ok(Operator::NotIn),
            Token::Equals => Ok(Operator::Equals),
            Token::DoubleEquals => Ok(Operator::DoubleEquals),
            Token::NotEquals => Ok(Operator::NotEquals),
            Token::Greater => Ok(Operator::GreaterThan),
            Token::Less => Ok(Operator::LessThan),
            Token::Word | Token::Not | Token::Comma | Token::Open | Token::Close | Token::Unknown | Token::End => {
                Err(fault(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")))
            }
        }
    }

    fn exact(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if matches!(self.peek_value().0, Token::End | Token::Comma) {
            return Ok(BTreeSet::from([String::new()]));
        }
        match self.next_value() {
            (Token::Word, value) => Ok(BTreeSet::from([value])),
            (_, text) => Err(fault(format!("found '{text}', expected: identifier"))),
        }
    }

    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        match self.next_value() {
            (Token::Open, _) => {}
            (_, text) => return Err(fault(format!("found '{text}' expected: '('"))),
        }
        match self.peek_value() {
            (Token::Word | Token::Comma, first) => {
                let values = self.list()?;
                match self.next_value() {
                    (Token::Close, _) => Ok(values),
                    _ => Err(fault(format!("found '{first}', expected: ')'"))),
                }
            }
            (Token::Close, _) => {
                self.at += 1;
                Ok(BTreeSet::from([String::new()]))
            }
            (_, text) => Err(fault(format!("found '{text}', expected: ',', ')' or identifier"))),
        }
    }

    /// Words between commas; nothing between two commas is the empty value.
    fn list(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let mut values = BTreeSet::new();
        loop {
            match self.next_value() {
                (Token::Word, value) => {
                    values.insert(value);
                    match self.peek_value() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, text) => return Err(fault(format!("found '{text}', expected: ',' or ')'"))),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    match self.peek_value().0 {
                        Token::Close => {
                            values.insert(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.at += 1;
                            values.insert(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return Err(fault(format!("found '{text}', expected: ',', or identifier"))),
            }
        }
    }
}

const SPECIAL: &str = "=!(),><";

fn scan(text: &str) -> Vec<(Token, String)> {
    let mut tokens = Vec::new();
    // Upstream's scanner takes a NUL for the end.
    let mut rest = text.split('\0').next().unwrap_or_default();
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else {
            tokens.push((Token::End, String::new()));
            return tokens;
        };
        let (token, length) = if SPECIAL.contains(first) { symbol(rest) } else { word(rest) };
        let (text, after) = rest.split_at(length);
        let text =
            if token == Token::Unknown { format!("error expected: keyword found '{text}'") } else { text.to_owned() };
        tokens.push((token, text));
        rest = after;
    }
}

fn word(text: &str) -> (Token, usize) {
    let end = text.find(|c: char| SPECIAL.contains(c) || " \t\r\n".contains(c)).unwrap_or(text.len());
    match text.get(..end) {
        Some("in") => (Token::In, end),
        Some("notin") => (Token::NotIn, end),
        _ => (Token::Word, end),
    }
}

fn symbol(text: &str) -> (Token, usize) {
    const SYMBOLS: [(&str, Token); 9] = [
        ("==", Token::DoubleEquals),
        ("!=", Token::NotEquals),
        ("=", Token::Equals),
        ("!", Token::Not),
        (",", Token::Comma),
        ("(", Token::Open),
        (")", Token::Close),
        (">", Token::Greater),
        ("<", Token::Less),
    ];
    SYMBOLS
        .iter()
        .find(|(symbol, _)| text.starts_with(symbol))
        .map_or((Token::Unknown, 1), |(symbol, token)| (*token, symbol.len()))
}
