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

    /** Columns: __COLUMNS__. A missing value is null, or left out. */
    fun predict(row: Map<String, Any?>): Prediction {
        val features = buffer(__BYTES__ * __WIDTH__)
        for (value in (0 until columns.length()).flatMap { encoded(row, it) }) {
__PUT__
        }
        features.rewind()
        return run(mapOf("__INPUT__" to features))
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
__TEXT__        val code = vocabularies[i][text]
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
__TERMS__
