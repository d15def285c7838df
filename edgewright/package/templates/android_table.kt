    private val columns = JSONObject(String(asset(context, "manifest.json")))
        .getJSONObject("preprocessing").getJSONArray("columns")
    private val vocabularies = List(columns.length()) { i ->
        val pairs = columns.getJSONObject(i).getJSONArray("vocabulary")
        (0 until pairs.length()).associate { pairs.getJSONArray(it).getString(0) to pairs.getJSONArray(it).getInt(1) }
    }

    /** Columns: __COLUMNS__. */
    fun predict(row: Map<String, Any?>): Prediction {
        val features = buffer(__BYTES__ * columns.length())
        for (i in 0 until columns.length()) {
__PUT__
        }
        features.rewind()
        return run(mapOf("__INPUT__" to features))
    }

    private fun encoded(row: Map<String, Any?>, i: Int): Float {
        val column = columns.getJSONObject(i)
        val name = column.getString("name")
        require(row.containsKey(name)) { "column '$name' is missing" }
        val value = row[name]?.toString()?.takeIf { it.isNotBlank() }
        // A category that training did not see is coded -1, as the source model treats it.
        if (column.getString("kind") == "category") return (vocabularies[i][value ?: ""] ?: -1).toFloat()
        if (value == null && column.getBoolean("optional")) return Float.NaN
        val number = requireNotNull(value?.toFloatOrNull()) { "column '$name' needs a number, found '$value'" }
        require(number.isFinite()) { "column '$name' must be finite" }
        return number
    }
