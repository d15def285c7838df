{% from "android_numbers.kt" import append %}
    /** Raw values, row by row: {{ shapes }}. */
    fun predict(
{%- for input in inputs -%}
{{ input.argument }}: {{ input.element.kotlin if input.spec.scale is none else "FloatArray" }}{% if not loop.last %}, {% endif %}
{%- endfor -%}
): Prediction {
{% for input in inputs %}
{% set name, buffer = input.argument, input.argument ~ "Buffer" %}
{% set value = "(value - %s) * %s" | format(mean | number, scale | number) if input.is_normalized else "value" %}
        require({{ name }}.size == {{ input.size }}) { "{{ name }}: {{ input.size }} values are needed, found ${ {{- name -}} .size}" }
        val {{ buffer }} = buffer({{ input.element.bytes * input.size }})
        for (value in {{ name }}) {
            {{ append(buffer, value, input) }}
        }
        {{ buffer }}.rewind()
{% endfor %}
        return run(mapOf(
{%- for input in inputs -%}
{{ input.spec.name | literal }} to {{ input.argument ~ "Buffer" }}{% if not loop.last %}, {% endif %}
{%- endfor -%}
))
    }
