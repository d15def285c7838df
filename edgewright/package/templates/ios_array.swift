        guard let answer = answers.featureValue(for: "__ANSWER__")?.multiArrayValue else {
            throw __TYPE__Error.missingOutput("__ANSWER__")
        }
        let raw = (0..<answer.count).map { answer[$0].floatValue }
