
    /// How often each term of the vocabulary stands in the text.
    private func counts(_ text: String, _ column: Column) -> [Float] {
        var counts = [Float](repeating: 0, count: column.codes.count)
        for term in terms(text, column.words) {
            if let place = column.codes[term] { counts[place] += 1 }
        }
        return column.words["binary"] as? Bool == true ? counts.map { min($0, 1) } : counts
    }

    private func terms(_ text: String, _ words: [String: Any]) -> [String] {
        let lower = words["lowercase"] as? Bool == true ? text.lowercased() : text
        let plain = withoutAccents(lower, words["strip_accents"] as? String ?? "")
        let range = words["ngrams"] as? [Int] ?? [1, 1]
        let lengths = range[0]...range[1]
        if words["analyzer"] as? String == "word" {
            let least = words["pattern"] as? String == "(?u)\\b\\w\\w+\\b" ? 2 : 1
            let stop = Set(words["stop_words"] as? [String] ?? [])
            let found = matches("[\\p{L}\\p{N}_]{\(least),}", plain).filter { !stop.contains($0) }
            return lengths.flatMap { n in
                found.count < n ? [] : (0...(found.count - n)).map { found[$0..<($0 + n)].joined(separator: " ") }
            }
        }
        let spaced = plain.replacingOccurrences(of: "[\\s\\p{Z}]{2,}", with: " ", options: .regularExpression)
        if words["analyzer"] as? String == "char" { return lengths.flatMap { pieces(spaced, $0) } }
        return matches("[^\\s\\p{Z}]+", spaced).flatMap { word -> [String] in
            let padded = " \(word) "
            let size = padded.unicodeScalars.count
            // A word that is no longer than the length counts whole, and once.
            return lengths.filter { $0 < size }.flatMap { pieces(padded, $0) }
                + (lengths.contains { $0 >= size } ? [padded] : [])
        }
    }

    private func matches(_ pattern: String, _ text: String) -> [String] {
        guard let expression = try? NSRegularExpression(pattern: pattern) else { return [] }
        let whole = NSRange(text.startIndex..., in: text)
        return expression.matches(in: text, range: whole).compactMap { Range($0.range, in: text).map { String(text[$0]) } }
    }

    private func pieces(_ text: String, _ length: Int) -> [String] {
        let scalars = Array(text.unicodeScalars)
        if scalars.count < length { return [] }
        return (0...(scalars.count - length)).map { start in
            var piece = String.UnicodeScalarView()
            piece.append(contentsOf: scalars[start..<(start + length)])
            return String(piece)
        }
    }

    private func withoutAccents(_ text: String, _ how: String) -> String {
        if how.isEmpty || text.unicodeScalars.allSatisfy({ $0.isASCII }) { return text }
        var kept = String.UnicodeScalarView()
        for scalar in text.decomposedStringWithCompatibilityMapping.unicodeScalars
        where how == "ascii" ? scalar.isASCII : scalar.properties.canonicalCombiningClass.rawValue == 0 {
            kept.append(scalar)
        }
        return String(kept)
    }
