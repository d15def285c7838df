{% from "android_numbers.kt" import stored %}
{% set classifies = manifest.task == "classification" %}
// {{ manifest.name | remark }} on Android. build.gradle.kts: implementation("com.google.ai.edge.litert:litert:1.4.0")
// Put {{ manifest.model | remark }} and manifest.json of this bundle into src/main/assets.

{% if reads_texts %}
import android.icu.lang.UCharacter
{% endif %}
import android.content.Context
import java.nio.ByteBuffer
import java.nio.ByteOrder
{% if reads_texts %}
import java.text.Normalizer
import java.util.Locale
{% endif %}
import kotlin.math.exp
import org.json.JSONArray
import org.json.JSONObject
import org.tensorflow.lite.Interpreter

class {{ type }}(context: Context, threads: Int = 1) : AutoCloseable {
    /** `scores` are {{ scores_are }}. */
    class Prediction({% if classifies %}val label: String, {% endif %}val scores: FloatArray)

    private val interpreter =
        Interpreter(direct(asset(context, {{ manifest.model | literal }})), Interpreter.Options().setNumThreads(threads))
{% if classifies %}
    private val labels = listOf({{ labels | map("literal") | join(", ") }})
{% endif %}

{% include "android_table.kt" if manifest.preprocessing.columns else "android_arrays.kt" %}

    private fun run(inputs: Map<String, Any>): Prediction {
        val answers = HashMap<String, Any>()
{% for output in outputs %}
        answers[{{ output.spec.name | literal }}] = buffer({{ output.element.bytes * output.size }})
{% endfor %}
        interpreter.runSignature(inputs, answers)
        val answer = answers.getValue({{ answer.spec.name | literal }}) as ByteBuffer
        answer.rewind()
        val raw = FloatArray({{ answer.size }}) { {{ stored("answer", answer) }} }
{% if manifest.scores.kind == "values" %}
        return Prediction(raw)
{% elif manifest.scores.kind == "classes" %}
        return Prediction(labels[Math.round(raw[0])], raw)
{% else %}
{% if manifest.scores.kind == "probabilities" %}
        val scores = {{ "floatArrayOf(1f - raw[0], raw[0])" if answer.size == 1 else "raw" }}
{% elif answer.size == 1 %}
        val positive = 1f / (1f + exp(-raw[0]))
        val scores = floatArrayOf(1f - positive, positive)
{% else %}
        val peak = raw.max()
        val raised = FloatArray(raw.size) { exp(raw[it] - peak) }
        val total = raised.sum()
        val scores = FloatArray(raw.size) { raised[it] / total }
{% endif %}
        val best = scores.indices.maxByOrNull { scores[it] } ?: 0
        return Prediction(labels[best], scores)
{% endif %}
    }

    override fun close() = interpreter.close()

    private fun asset(context: Context, name: String): ByteArray = context.assets.open(name).use { it.readBytes() }

    private fun buffer(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

    private fun direct(bytes: ByteArray): ByteBuffer = buffer(bytes.size).apply { put(bytes); rewind() }
}
