
    /// Core ML scales the image and converts its colours to what the input needs.
    private func image(_ image: CGImage, for input: String) throws -> MLFeatureValue {
        guard let constraint = model.modelDescription.inputDescriptionsByName[input]?.imageConstraint else {
            throw __TYPE__Error.badInput("\(input) is no image input")
        }
        return try MLFeatureValue(cgImage: image, constraint: constraint)
    }
