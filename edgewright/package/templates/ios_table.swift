    /// Columns: {{ columns }}. A missing value is nil, or left out.
    func predict(_ row: [String: Any?]) throws -> Prediction {
        let features = try MLMultiArray(shape: [1, {{ manifest.preprocessing.width }}], dataType: .float32)
        for (i, value) in try columns.flatMap({ try encoded(row, $0) }).enumerated() {
            features[i] = NSNumber(value: value)
        }
        return try run([{{ inputs[0].spec.name | literal }}: features])
    }

    private func encoded(_ row: [String: Any?], _ column: Column) throws -> [Float] {
        let given = row[column.name] ?? nil
        let isNaN = (given as? Double)?.isNaN ?? (given as? Float)?.isNaN ?? false
        let text = given.map { spelled($0) } ?? ""
        let isBlank = column.isNumber && text.trimmingCharacters(in: .whitespaces).isEmpty
        if given == nil || isNaN || isBlank || column.blanks.contains(text) {
            guard column.isOptional else { throw {{ type }}Error.badInput("column '\(column.name)' is empty") }
            return [column.isNumber ? .nan : Float(column.missing)]
        }
{% if reads_texts %}
        if !column.words.isEmpty { return counts(text, column) }
{% endif %}
        if let code = column.codes[text] { return [Float(code)] }
        if !column.isNumber {
            guard !column.isKnownOnly else {
                throw {{ type }}Error.badInput("column '\(column.name)' holds '\(text)', which the model was not trained on")
            }
            return [Float(column.unknown)]
        }
        guard let number = Float(text.trimmingCharacters(in: .whitespaces)), number.isFinite else {
            throw {{ type }}Error.badInput("column '\(column.name)' needs a finite number, found '\(text)'")
        }
        return [number]
    }

    /// A value as the vocabularies write it: a whole number without a fraction.
    private func spelled(_ value: Any) -> String {
        if let number = value as? Double, number == number.rounded(), abs(number) < 1e15 { return String(Int64(number)) }
        return "\(value)"
    }

    private struct Column {
        let name: String
        let isNumber: Bool
        let isOptional: Bool
        let isKnownOnly: Bool
        let unknown: Int
        let missing: Int
        /// Texts that mean "missing".
        let blanks: Set<String>
        let codes: [String: Int]
        let words: [String: Any]

        init(_ json: [String: Any], _ missingEverywhere: [String]) throws {
            guard let name = json["name"] as? String, let kind = json["kind"] as? String,
                let optional = json["optional"] as? Bool, let knownOnly = json["known_only"] as? Bool,
                let unknown = json["unknown"] as? Int, let missing = json["missing"] as? Int,
                let own = json["missing_texts"] as? [String], let pairs = json["vocabulary"] as? [[Any]]
            else { throw {{ type }}Error.badInput("manifest.json: a column is not described") }
            self.name = name
            isNumber = kind == "number"
            isOptional = optional
            isKnownOnly = knownOnly
            self.unknown = unknown
            self.missing = missing
            words = json["words"] as? [String: Any] ?? [:]
            var codes: [String: Int] = [:]
            for pair in pairs {
                if let word = pair.first as? String, let code = pair.last as? Int { codes[word] = code }
            }
            self.codes = codes
            blanks = Set(missingEverywhere + own).subtracting(codes.keys)
        }
    }
{% if reads_texts %}
{% include "ios_terms.swift" %}
{% endif %}
