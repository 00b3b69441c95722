//! Forged receipts.

use super::{Corpus, Part, flip_base64, flip_digit, put, text};

impl Corpus<'_> {
    fn receipt(&mut self, name: &str, forged: &str) {
        self.case(&format!("receipt {name}"), Part::Receipt, |case| put(&case.join("receipt"), forged.as_bytes()));
    }

    pub(super) fn receipts(&mut self) {
        let [older, newer, another] = [0, 1, 2].map(|at| text(&self.logs.receipts[at]));
        let split = |receipt: &str| {
            let (proof, note) = receipt.split_once("\n\n").expect("a checkpoint");
            let mut lines: Vec<String> = proof.split('\n').map(str::to_owned).collect();
            let path = lines.split_off(3);
            (lines, path, note.to_owned())
        };
        let (head, path, note) = split(&newer);
        let of =
            |head: &[String], path: &[String], note: &str| format!("{}\n\n{note}", [head, path].concat().join("\n"));
        assert_eq!(of(&head, &path, &note), newer);
        let with = |lines: &[String], at: usize, line: String| {
            let mut lines = lines.to_vec();
            lines[at] = line;
            lines
        };
        self.receipt("flipped: record", &of(&with(&head, 1, flip_base64(&head[1])), &path, &note));
        self.receipt("flipped: index", &of(&with(&head, 2, flip_digit(&head[2])), &path, &note));
        for at in [0, path.len() / 2, path.len() - 1] {
            let forged = with(&path, at, flip_base64(&path[at]));
            self.receipt(&format!("flipped: hash {at} of its path"), &of(&head, &forged, &note));
        }
        let root = note.lines().nth(2).expect("a root");
        self.receipt("flipped: root", &of(&head, &path, &note.replacen(root, &flip_base64(root), 1)));
        self.receipt("cut: last hash", &of(&head, &path[..path.len() - 1], &note));
        self.receipt("cut: no path", &of(&head, &[], &note));
        self.receipt("cut: no checkpoint", &newer[..newer.find("\n\n").expect("a checkpoint") + 2]);
        self.receipt("cut: half", &newer[..newer.len() / 2]);
        let lines: Vec<&str> = note.lines().collect();
        for (kind, part, line) in [("ECDSA", Part::ReceiptEcdsaLine, 4), ("Ed25519", Part::Receipt, 5)] {
            let without = note.replacen(&format!("{}\n", lines[line]), "", 1);
            let forged = of(&head, &path, &without);
            self.case(&format!("receipt cut: no {kind} line"), part, |case| {
                put(&case.join("receipt"), forged.as_bytes())
            });
        }
        let (other_head, other_path, _) = split(&another);
        self.receipt("swapped: another record's path", &of(&head, &other_path, &note));
        self.receipt("swapped: another record", &of(&with(&head, 1, other_head[1].clone()), &path, &note));
        let (_, _, older_note) = split(&older);
        self.receipt("replayed: older checkpoint", &of(&head, &path, &older_note));
        let (_, older_path, _) = split(&older);
        self.receipt("replayed: older path", &of(&head, &older_path, &note));
        let other_log = text(&self.logs.other.join("checkpoint"));
        self.receipt("replayed: another log's checkpoint", &of(&head, &path, &other_log));
    }
}
