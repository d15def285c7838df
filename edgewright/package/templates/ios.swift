{% set classifies = manifest.task == "classification" %}
// {{ manifest.name | remark }} on iOS 16 and later. Add {{ manifest.model | remark }} and manifest.json of this bundle to the app's target;
// Xcode compiles the model to {{ stem | remark }}.mlmodelc.

{% if options.image_inputs %}
import CoreGraphics
{% endif %}
import CoreML
import Foundation

enum {{ type }}Error: Error {
    case missingFile(String)
    case missingOutput(String)
    case badInput(String)
}

final class {{ type }} {
    /// `scores` are {{ scores_are }}.
    struct Prediction {
{% if classifies %}
        let label: String
{% endif %}
        let scores: [Float]
    }

    private let model: MLModel
{% if classifies %}
    private let labels = [{{ labels | map("literal") | join(", ") }}]
{% endif %}
{% if manifest.preprocessing.columns %}
    private let columns: [Column]
{% endif %}

    init(bundle: Bundle = .main) throws {
        guard let url = bundle.url(forResource: {{ stem | literal }}, withExtension: "mlmodelc") else {
            throw {{ type }}Error.missingFile({{ (stem ~ ".mlmodelc") | literal }})
        }
        model = try MLModel(contentsOf: url)
{% if manifest.preprocessing.columns %}
        guard let described = bundle.url(forResource: "manifest", withExtension: "json") else {
            throw {{ type }}Error.missingFile("manifest.json")
        }
        let manifest = try JSONSerialization.jsonObject(with: Data(contentsOf: described)) as? [String: Any]
        let preprocessing = manifest?["preprocessing"] as? [String: Any]
        let missing = preprocessing?["missing"] as? [String] ?? []
        columns = try (preprocessing?["columns"] as? [[String: Any]] ?? []).map { try Column($0, missing) }
{% endif %}
    }

{% if manifest.preprocessing.columns %}
{% include "ios_table.swift" %}
{% elif options.image_inputs %}
{% include "ios_images.swift" %}
{% else %}
{% include "ios_arrays.swift" %}
{% endif %}

    private func run(_ inputs: [String: Any]) throws -> Prediction {
        let features = try MLDictionaryFeatureProvider(dictionary: inputs)
        let answers = try model.prediction(from: features)
{% if options.class_labels and manifest.labels %}
        // A classifier: Core ML gives its scores by label.
        let name = model.modelDescription.predictedProbabilitiesName ?? ""
        guard let scored = answers.featureValue(for: name)?.dictionaryValue else {
            throw {{ type }}Error.missingOutput("the scores by label")
        }
        let raw = try labels.map { (label) -> Float in
            guard let score = scored[label] else { throw {{ type }}Error.missingOutput(label) }
            return score.floatValue
        }
{% else %}
        guard let answer = answers.featureValue(for: {{ answer.spec.name | literal }})?.multiArrayValue else {
            throw {{ type }}Error.missingOutput({{ answer.spec.name | literal }})
        }
        let raw = (0..<answer.count).map { answer[$0].floatValue }
{% endif %}
{% if manifest.scores.kind == "values" %}
        return Prediction(scores: raw)
{% elif manifest.scores.kind == "classes" %}
        return Prediction(label: labels[Int(raw[0].rounded())], scores: raw)
{% else %}
{% if manifest.scores.kind == "probabilities" %}
        let scores = {{ "[1 - raw[0], raw[0]]" if answer.size == 1 else "raw" }}
{% elif answer.size == 1 %}
        let positive = 1 / (1 + exp(-raw[0]))
        let scores = [1 - positive, positive]
{% else %}
        let peak = raw.max() ?? 0
        let raised = raw.map { exp($0 - peak) }
        let total = raised.reduce(0, +)
        let scores = raised.map { $0 / total }
{% endif %}
        let best = scores.indices.max { scores[$0] < scores[$1] } ?? 0
        return Prediction(label: labels[best], scores: scores)
{% endif %}
    }
}
