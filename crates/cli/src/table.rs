//! Tables with ruled lines, as `minikube service` prints them: people paste and recognise that shape.

/// Draws rows below centred headings; a cell may hold several lines.
pub(crate) fn draw(headings: &[&str], rows: &[Vec<Vec<String>>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).flatten().map(|line| line.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let rule: String = widths.iter().map(|w| format!("|{}", "-".repeat(w + 2))).collect::<String>() + "|\n";
    let mut out = rule.clone();
    let heads = headings.iter().zip(&widths).map(|(text, w)| format!("| {text:^w$} "));
    out.push_str(&(heads.collect::<String>() + "|\n"));
    out.push_str(&rule);
    for row in rows {
        let height = row.iter().map(Vec::len).max().unwrap_or(0);
        for line in 0..height {
            let text = |column: usize| row.get(column).and_then(|cell| cell.get(line)).map_or("", String::as_str);
            let cells = widths.iter().enumerate().map(|(column, w)| format!("| {:<w$} ", text(column)));
            out.push_str(&(cells.collect::<String>() + "|\n"));
        }
    }
    out.push_str(&rule);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_may_hold_several_lines() {
        let row = vec![vec!["web".to_owned()], vec!["a".to_owned(), "bcd".to_owned()]];
        let drawn = draw(&["NAME", "X"], &[row]);
        let expected =
            "|------|-----|\n| NAME |  X  |\n|------|-----|\n| web  | a   |\n|      | bcd |\n|------|-----|\n";
        assert_eq!(drawn, expected);
    }
}
