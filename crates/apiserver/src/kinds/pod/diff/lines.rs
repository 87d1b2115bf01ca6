//! A unified diff of lines, by the longest matching blocks, as Python's `difflib` and its Go port find them.

use std::collections::HashMap;

const CONTEXT: usize = 3;
/// From so many lines on, lines that stand in more than one in a hundred places start no block.
const POPULAR_FROM: usize = 200;

/// A block of equal lines: where in both, and how long.
#[derive(Clone, Copy)]
struct Block {
    a: usize,
    b: usize,
    length: usize,
}

/// What happens to `a[from..to]`, which becomes `b[from..to]`.
#[derive(Clone, Copy)]
struct Change {
    equal: bool,
    a: (usize, usize),
    b: (usize, usize),
}

/// Hunks of changed lines with three lines around them; empty for equal texts.
pub fn unified(a: &[String], b: &[String]) -> String {
    let mut text = String::new();
    for hunk in hunks(changes(a, b)) {
        let (first, last) = (hunk[0], hunk[hunk.len() - 1]);
        text.push_str(&format!("@@ -{} +{} @@\n", range(first.a.0, last.a.1), range(first.b.0, last.b.1)));
        for change in hunk {
            if change.equal {
                a[change.a.0..change.a.1].iter().for_each(|line| text.push_str(&format!(" {line}\n")));
                continue;
            }
            a[change.a.0..change.a.1].iter().for_each(|line| text.push_str(&format!("-{line}\n")));
            b[change.b.0..change.b.1].iter().for_each(|line| text.push_str(&format!("+{line}\n")));
        }
    }
    text
}

fn range(start: usize, end: usize) -> String {
    match end - start {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        length => format!("{},{length}", start + 1),
    }
}

fn hunks(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut hunks = Vec::new();
    let mut hunk: Vec<Change> = Vec::new();
    let count = changes.len();
    for (index, mut change) in changes.into_iter().enumerate() {
        let length = change.a.1 - change.a.0;
        if change.equal && index == 0 {
            change = cut_front(change, length.saturating_sub(CONTEXT));
        }
        if change.equal && index + 1 == count {
            let kept = (change.a.1 - change.a.0).min(CONTEXT);
            change = Change { a: (change.a.0, change.a.0 + kept), b: (change.b.0, change.b.0 + kept), ..change };
        } else if change.equal && index > 0 && length > 2 * CONTEXT {
            hunk.push(Change {
                a: (change.a.0, change.a.0 + CONTEXT),
                b: (change.b.0, change.b.0 + CONTEXT),
                ..change
            });
            hunks.push(std::mem::take(&mut hunk));
            change = cut_front(change, length - CONTEXT);
        }
        hunk.push(change);
    }
    if hunk.iter().any(|change| !change.equal) {
        hunks.push(hunk);
    }
    hunks
}

fn cut_front(change: Change, by: usize) -> Change {
    Change { a: (change.a.0 + by, change.a.1), b: (change.b.0 + by, change.b.1), ..change }
}

fn changes(a: &[String], b: &[String]) -> Vec<Change> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, line) in b.iter().enumerate() {
        places.entry(line).or_default().push(index);
    }
    if b.len() >= POPULAR_FROM {
        places.retain(|_, found| found.len() <= b.len() / 100 + 1);
    }
    let mut blocks = Vec::new();
    match_blocks(a, b, &places, (0, a.len()), (0, b.len()), &mut blocks);
    blocks.push(Block { a: a.len(), b: b.len(), length: 0 });
    let mut changes: Vec<Change> = Vec::new();
    let (mut at_a, mut at_b) = (0, 0);
    for block in blocks {
        if at_a < block.a || at_b < block.b {
            changes.push(Change { equal: false, a: (at_a, block.a), b: (at_b, block.b) });
        }
        (at_a, at_b) = (block.a + block.length, block.b + block.length);
        if block.length > 0 {
            // Blocks that touch are one.
            match changes.last_mut().filter(|last| last.equal && last.a.1 == block.a && last.b.1 == block.b) {
                Some(last) => (last.a.1, last.b.1) = (at_a, at_b),
                None => changes.push(Change { equal: true, a: (block.a, at_a), b: (block.b, at_b) }),
            }
        }
    }
    changes
}

type Span = (usize, usize);

fn match_blocks(
    a: &[String],
    b: &[String],
    places: &HashMap<&str, Vec<usize>>,
    in_a: Span,
    in_b: Span,
    found: &mut Vec<Block>,
) {
    let block = longest(a, b, places, in_a, in_b);
    if block.length == 0 {
        return;
    }
    match_blocks(a, b, places, (in_a.0, block.a), (in_b.0, block.b), found);
    found.push(block);
    match_blocks(a, b, places, (block.a + block.length, in_a.1), (block.b + block.length, in_b.1), found);
}

/// The longest block within; of several the first in `a`, then in `b`.
fn longest(a: &[String], b: &[String], places: &HashMap<&str, Vec<usize>>, in_a: Span, in_b: Span) -> Block {
    let mut best = Block { a: in_a.0, b: in_b.0, length: 0 };
    let mut ending: HashMap<usize, usize> = HashMap::new();
    for (at, line) in a.iter().enumerate().take(in_a.1).skip(in_a.0) {
        let mut next = HashMap::new();
        for place in places.get(line.as_str()).into_iter().flatten().filter(|place| (in_b.0..in_b.1).contains(*place)) {
            let before = place.checked_sub(1).and_then(|place| ending.get(&place)).copied().unwrap_or(0);
            let length = before + 1;
            next.insert(*place, length);
            if length > best.length {
                best = Block { a: at + 1 - length, b: place + 1 - length, length };
            }
        }
        ending = next;
    }
    // Popular lines start no block, but lengthen one.
    while best.a > in_a.0 && best.b > in_b.0 && a[best.a - 1] == b[best.b - 1] {
        best = Block { a: best.a - 1, b: best.b - 1, length: best.length + 1 };
    }
    while best.a + best.length < in_a.1
        && best.b + best.length < in_b.1
        && a[best.a + best.length] == b[best.b + best.length]
    {
        best.length += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::unified;

    fn check(a: &str, b: &str, expected: &str) {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        assert_eq!(unified(&lines(a), &lines(b)).replace('\n', "|"), expected);
    }

    #[test]
    fn hunks_have_three_lines_around_them() {
        check("abcdefgh", "abcdefgh", "");
        check("abcdefgh", "abcdXfgh", "@@ -2,7 +2,7 @@| b| c| d|-e|+X| f| g| h|");
        check("abcdefghijklm", "XbcdefghijklY", "@@ -1,4 +1,4 @@|-a|+X| b| c| d|@@ -10,4 +10,4 @@| j| k| l|-m|+Y|");
    }
}
