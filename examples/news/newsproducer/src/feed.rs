//! What a feed says: RSS and Atom in, items out, oldest first.

use std::time::Duration;

use anyhow::{Context, Result};

/// One news item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What makes it this item: its guid or id, else its link.
    pub id: String,
    pub title: String,
    pub link: String,
}

/// More than any honest feed has; a larger answer is refused rather than held in memory.
const MAX_FEED_BYTES: u64 = 8 << 20;

/// Fetches and reads the feed at `url`.
pub fn fetch(url: &str, timeout: Duration) -> Result<Vec<Item>> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(timeout)).build().into();
    let mut answer = agent.get(url).call().with_context(|| format!("cannot fetch feed `{url}`"))?;
    let text = answer.body_mut().with_config().limit(MAX_FEED_BYTES).read_to_vec();
    read(&text.with_context(|| format!("cannot read feed `{url}`"))?)
}

/// Reads a feed's text.
pub fn read(text: &[u8]) -> Result<Vec<Item>> {
    let feed = feed_rs::parser::parse(text).context("this is neither RSS nor Atom")?;
    let mut entries = feed.entries;
    // Feeds list the newest first, but not all of them: the date decides, and without dates the reversed order does.
    entries.reverse();
    entries.sort_by_key(|entry| entry.published.or(entry.updated));
    Ok(entries.into_iter().map(item).collect())
}

fn item(entry: feed_rs::model::Entry) -> Item {
    let title = entry.title.map(|title| title.content).unwrap_or_default();
    let link = entry.links.into_iter().next().map(|link| link.href).unwrap_or_default();
    Item { id: if entry.id.is_empty() { link.clone() } else { entry.id }, title, link }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rss_and_atom_give_items_oldest_first() {
        let rss = r#"<rss version="2.0"><channel><title>t</title>
            <item><guid>2</guid><title>Second</title><pubDate>Tue, 02 Jan 2024 00:00:00 GMT</pubDate></item>
            <item><guid>1</guid><title>First</title><pubDate>Mon, 01 Jan 2024 00:00:00 GMT</pubDate></item>
            </channel></rss>"#;
        let titles: Vec<String> = read(rss.as_bytes()).unwrap().into_iter().map(|item| item.title).collect();
        assert_eq!(titles, ["First", "Second"]);
        let atom = r#"<feed xmlns="http://www.w3.org/2005/Atom"><title>t</title><id>f</id><updated>2024-01-01T00:00:00Z</updated>
            <entry><id>urn:1</id><title>Only</title><link href="http://news.example/1"/><updated>2024-01-01T00:00:00Z</updated></entry>
            </feed>"#;
        let only = Item { id: "urn:1".into(), title: "Only".into(), link: "http://news.example/1".into() };
        assert_eq!(read(atom.as_bytes()).unwrap(), [only]);
        assert!(read(b"<html></html>").is_err());
    }
}
