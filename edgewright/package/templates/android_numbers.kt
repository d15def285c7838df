{# A number of a tensor in a ByteBuffer: "append" writes a real one, "stored" reads the next one as real. #}
{% macro append(buffer, value, tensor) %}
{% if tensor.spec.scale is none %}
{{ buffer }}.put{{ tensor.element.buffer_method }}({{ value }})
{%- else %}
val steps = Math.round({{ value }} / {{ tensor.spec.scale | number }}) + ({{ tensor.spec.zero_point }})
            {{ buffer }}.put(steps.coerceIn(-128, 127).toByte())
{%- endif %}
{% endmacro %}
{% macro stored(buffer, tensor) %}
{% set next = buffer ~ ".get" ~ tensor.element.buffer_method ~ "()" %}
{% if tensor.spec.scale is none %}
{{ next }}.toFloat()
{%- else %}
({{ next }} - ({{ tensor.spec.zero_point }})) * {{ tensor.spec.scale | number }}
{%- endif %}
{% endmacro %}
