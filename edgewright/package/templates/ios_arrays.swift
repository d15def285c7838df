    /// Raw values, row by row: {{ shapes }}.
    func predict(
{%- for input in inputs -%}
{{ input.argument }}: [{{ input.element.swift }}]{% if not loop.last %}, {% endif %}
{%- endfor -%}
) throws -> Prediction {
{% for input in inputs %}
{% set name = input.argument %}
{% set value = "(%s[i] - %s) * %s" | format(name, mean | number, scale | number) if input.is_normalized else name ~ "[i]" %}
        guard {{ name }}.count == {{ input.size }} else {
            throw {{ type }}Error.badInput(
                "{{ name }}: {{ input.size }} values are needed, found \({{ name }}.count)")
        }
        let {{ name }}Array = try MLMultiArray(shape: [{{ ((1,) + input.spec.shape[1:]) | join(", ") }}], dataType: .{{ input.element.multi_array }})
        for i in 0..<{{ input.size }} { {{ name }}Array[i] = NSNumber(value: {{ value }}) }
{% endfor %}
        return try run([
{%- for input in inputs -%}
{{ input.spec.name | literal }}: {{ input.argument }}Array{% if not loop.last %}, {% endif %}
{%- endfor -%}
])
    }
