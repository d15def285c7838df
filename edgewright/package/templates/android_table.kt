{% from "android_numbers.kt" import append %}
    private val preprocessing = JSONObject(String(asset(context, "manifest.json"))).getJSONObject("preprocessing")
    private val columns = preprocessing.getJSONArray("columns")
    private val vocabularies = List(columns.length()) { i ->
        val pairs = columns.getJSONObject(i).getJSONArray("vocabulary")
        (0 until pairs.length()).associate { pairs.getJSONArray(it).getString(0) to pairs.getJSONArray(it).getInt(1) }
    }
    /** Texts that mean "missing", by column. */
    private val blanks = List(columns.length()) { i ->
        val own = columns.getJSONObject(i).getJSONArray("missing_texts")
        (texts(preprocessing.getJSONArray("missing")) + texts(own)).toSet() - vocabularies[i].keys
    }

    /** Columns: {{ columns }}. A missing value is null, or left out. */
    fun predict(row: Map<String, Any?>): Prediction {
        val features = buffer({{ inputs[0].element.bytes }} * {{ manifest.preprocessing.width }})
        for (value in (0 until columns.length()).flatMap { encoded(row, it) }) {
            {{ append("features", "value", inputs[0]) }}
        }
        features.rewind()
        return run(mapOf({{ inputs[0].spec.name | literal }} to features))
    }

    private fun encoded(row: Map<String, Any?>, i: Int): List<Float> {
        val column = columns.getJSONObject(i)
        val name = column.getString("name")
        val isNumber = column.getString("kind") == "number"
        val given = row[name]
        val text = if (given is Double && given % 1.0 == 0.0) given.toLong().toString() else given?.toString()
        val isNaN = (given as? Number)?.toDouble()?.isNaN() == true
        if (text == null || isNaN || text in blanks[i] || (isNumber && text.isBlank())) {
            require(column.getBoolean("optional")) { "column '$name' is empty" }
            return listOf(if (isNumber) Float.NaN else column.getInt("missing").toFloat())
        }
{% if reads_texts %}
        if (column.getString("kind") == "text") return counts(text, i)
{% endif %}
        val code = vocabularies[i][text]
        if (code != null) return listOf(code.toFloat())
        if (!isNumber) {
            require(!column.getBoolean("known_only")) { "column '$name' holds '$text', which the model was not trained on" }
            return listOf(column.getInt("unknown").toFloat())
        }
        val number = requireNotNull(text.toFloatOrNull()) { "column '$name' needs a number, found '$text'" }
        require(number.isFinite()) { "column '$name' must be finite" }
        return listOf(number)
    }

    private fun texts(array: JSONArray): List<String> = (0 until array.length()).map { array.getString(it) }
{% if reads_texts %}
{% include "android_terms.kt" %}
{% endif %}
