    /// Images, scaled to
{%- for input in inputs %} {{ input.spec.name | remark }} {{ input.spec.shape[3] }} x {{ input.spec.shape[2] }} pixels
{%- if not loop.last %};{% endif %}
{% endfor -%}
; the file holds their normalization.
    func predict(
{%- for input in inputs -%}
{{ input.argument }}: CGImage{% if not loop.last %}, {% endif %}
{%- endfor -%}
) throws -> Prediction {
        return try run([
{% for input in inputs %}
            {{ input.spec.name | literal }}: try self.image({{ input.argument }}, for: {{ input.spec.name | literal }}),
{% endfor %}
        ])
    }

    /// Core ML scales the image and converts its colours to what the input needs.
    private func image(_ image: CGImage, for input: String) throws -> MLFeatureValue {
        guard let constraint = model.modelDescription.inputDescriptionsByName[input]?.imageConstraint else {
            throw {{ type }}Error.badInput("\(input) is no image input")
        }
        return try MLFeatureValue(cgImage: image, constraint: constraint)
    }
