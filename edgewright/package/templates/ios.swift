// __NAME__ on iOS 16 and later. Add __FILE__ and manifest.json of this bundle to the app's target;
// Xcode compiles the model to __STEM__.mlmodelc.

__IMPORTS__import CoreML
import Foundation

enum __TYPE__Error: Error {
    case missingFile(String)
    case missingOutput(String)
    case badInput(String)
}

final class __TYPE__ {
    /// `scores` are __SCORES_ARE__.
    struct Prediction {
__LABEL_FIELD__        let scores: [Float]
    }

    private let model: MLModel
__FIELDS__
    init(bundle: Bundle = .main) throws {
        guard let url = bundle.url(forResource: "__STEM__", withExtension: "mlmodelc") else {
            throw __TYPE__Error.missingFile("__STEM__.mlmodelc")
        }
        model = try MLModel(contentsOf: url)
__INIT__    }
__PREDICT__
    private func run(_ inputs: [String: Any]) throws -> Prediction {
        let features = try MLDictionaryFeatureProvider(dictionary: inputs)
        let answers = try model.prediction(from: features)
__ANSWER_VALUES____INTERPRET__
    }
}
