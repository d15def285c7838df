
    /// Columns: __COLUMNS__.
    func predict(_ row: [String: Any?]) throws -> Prediction {
        let features = try MLMultiArray(shape: [1, NSNumber(value: columns.count)], dataType: .float32)
        for (i, column) in columns.enumerated() {
            features[i] = NSNumber(value: try encoded(row, column))
        }
        return try run(["__INPUT__": features])
    }

    private func encoded(_ row: [String: Any?], _ column: Column) throws -> Float {
        guard let given = row[column.name] else {
            throw __TYPE__Error.badInput("column '\(column.name)' is missing")
        }
        let text = given.map { "\($0)" }?.trimmingCharacters(in: .whitespaces) ?? ""
        // A category that training did not see is coded -1, as the source model treats it.
        if column.isCategory { return Float(column.codes[text] ?? -1) }
        if text.isEmpty && column.isOptional { return .nan }
        guard let number = Float(text), number.isFinite else {
            throw __TYPE__Error.badInput("column '\(column.name)' needs a finite number, found '\(text)'")
        }
        return number
    }

    private struct Column {
        let name: String
        let isCategory: Bool
        let isOptional: Bool
        let codes: [String: Int]

        init(_ json: [String: Any]) throws {
            guard let name = json["name"] as? String, let kind = json["kind"] as? String,
                let optional = json["optional"] as? Bool, let pairs = json["vocabulary"] as? [[Any]]
            else { throw __TYPE__Error.badInput("manifest.json: a column is not described") }
            self.name = name
            isCategory = kind == "category"
            isOptional = optional
            var codes: [String: Int] = [:]
            for pair in pairs {
                if let word = pair.first as? String, let code = pair.last as? Int { codes[word] = code }
            }
            self.codes = codes
        }
    }
