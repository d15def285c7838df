
    /** How often each term of the vocabulary stands in the text. */
    private fun counts(text: String, i: Int): List<Float> {
        val words = columns.getJSONObject(i).getJSONObject("words")
        val counts = FloatArray(vocabularies[i].size)
        for (term in terms(text, words)) vocabularies[i][term]?.let { counts[it] += 1f }
        return if (words.getBoolean("binary")) counts.map { minOf(it, 1f) } else counts.toList()
    }

    private fun terms(text: String, words: JSONObject): List<String> {
        val lower = if (words.getBoolean("lowercase")) text.lowercase(Locale.ROOT) else text
        val plain = withoutAccents(lower, words.getString("strip_accents"))
        val lengths = words.getJSONArray("ngrams").getInt(0)..words.getJSONArray("ngrams").getInt(1)
        if (words.getString("analyzer") == "word") {
            val least = if (words.getString("pattern") == "(?u)\\b\\w\\w+\\b") 2 else 1
            val stop = texts(words.getJSONArray("stop_words")).toSet()
            val found = Regex("[\\p{L}\\p{N}_]{$least,}").findAll(plain).map { it.value }.filter { it !in stop }.toList()
            return lengths.flatMap { found.windowed(it) { part -> part.joinToString(" ") } }
        }
        val spaced = plain.replace(Regex("[\\s\\p{Z}]{2,}"), " ")
        if (words.getString("analyzer") == "char") return lengths.flatMap { pieces(spaced, it) }
        return spaced.split(Regex("[\\s\\p{Z}]+")).filter { it.isNotEmpty() }.flatMap { word ->
            val padded = " $word "
            val size = padded.codePointCount(0, padded.length)
            // A word that is no longer than the length counts whole, and once.
            lengths.filter { it < size }.flatMap { pieces(padded, it) } +
                if (lengths.any { it >= size }) listOf(padded) else emptyList()
        }
    }

    private fun pieces(text: String, length: Int): List<String> {
        val points = text.codePoints().toArray()
        return (0..points.size - length).map { String(points, it, length) }
    }

    private fun withoutAccents(text: String, how: String): String {
        if (how.isEmpty() || text.all { it.code < 128 }) return text
        val apart = Normalizer.normalize(text, Normalizer.Form.NFKD).codePoints().toArray()
        val kept = if (how == "ascii") apart.filter { it < 128 } else apart.filter { UCharacter.getCombiningClass(it) == 0 }
        return kept.joinToString("") { String(Character.toChars(it)) }
    }
