        // A classifier: Core ML gives its scores by label.
        let name = model.modelDescription.predictedProbabilitiesName ?? ""
        guard let scored = answers.featureValue(for: name)?.dictionaryValue else {
            throw __TYPE__Error.missingOutput("the scores by label")
        }
        let raw = try labels.map { (label) -> Float in
            guard let score = scored[label] else { throw __TYPE__Error.missingOutput(label) }
            return score.floatValue
        }
