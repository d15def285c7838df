// __NAME__ on Android. build.gradle.kts: implementation("com.google.ai.edge.litert:litert:1.4.0")
// Put __FILE__ and manifest.json of this bundle into src/main/assets.

__TEXT_IMPORTS__import android.content.Context
import java.nio.ByteBuffer
import java.nio.ByteOrder
__MORE_IMPORTS__import kotlin.math.exp
import org.json.JSONArray
import org.json.JSONObject
import org.tensorflow.lite.Interpreter

class __TYPE__(context: Context, threads: Int = 1) : AutoCloseable {
    /** `scores` are __SCORES_ARE__. */
    class Prediction(__LABEL_FIELD__val scores: FloatArray)

    private val interpreter =
        Interpreter(direct(asset(context, "__FILE__")), Interpreter.Options().setNumThreads(threads))
__FIELDS__
__PREDICT__
    private fun run(inputs: Map<String, Any>): Prediction {
        val answers = HashMap<String, Any>()
__OUTPUTS__
        interpreter.runSignature(inputs, answers)
        val answer = answers.getValue("__ANSWER__") as ByteBuffer
        answer.rewind()
        val raw = FloatArray(__ANSWER_SIZE__) { __READ_ANSWER__ }
__INTERPRET__
    }

    override fun close() = interpreter.close()

    private fun asset(context: Context, name: String): ByteArray = context.assets.open(name).use { it.readBytes() }

    private fun buffer(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

    private fun direct(bytes: ByteArray): ByteBuffer = buffer(bytes.size).apply { put(bytes); rewind() }
}
