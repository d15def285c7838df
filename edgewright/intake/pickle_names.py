"""The names that a scikit-learn pickle may ask for; each was looked at for what calling it with any arguments does."""

__all__ = ["ESTIMATOR_PACKAGES", "EXACT", "FUNCTIONS", "FUNCTIONS_WITHOUT_PATH"]

_PACKAGES = """
calibration cluster compose covariance cross_decomposition decomposition discriminant_analysis dummy ensemble
feature_extraction feature_selection frozen gaussian_process impute isotonic kernel_approximation kernel_ridge
linear_model manifold mixture model_selection multiclass multioutput naive_bayes neighbors neural_network pipeline
preprocessing random_projection semi_supervised svm tree
"""
_OBJECTS = """
numpy.ndarray numpy.dtype numpy.matrix numpy._core.multiarray._reconstruct numpy.core.multiarray._reconstruct
numpy._core.multiarray.scalar numpy.core.multiarray.scalar numpy._core.numeric._frombuffer
numpy.core.numeric._frombuffer numpy.random._pickle.__randomstate_ctor numpy.random._pickle.__generator_ctor
numpy.random._pickle.__bit_generator_ctor numpy.random._mt19937.MT19937 numpy.random._pcg64.PCG64
numpy.random._mtrand.RandomState numpy.random.mtrand.RandomState numpy.ma.core.MaskedArray numpy.ma.MaskedArray
numpy.ma.core._mareconstruct scipy.sparse._csr.csr_matrix scipy.sparse._csc.csc_matrix scipy.sparse._coo.coo_matrix
scipy.sparse._csr.csr_array scipy.sparse._csc.csc_array scipy.sparse._coo.coo_array scipy.sparse.csr.csr_matrix
scipy.sparse.csc.csc_matrix scipy.interpolate._interpolate.interp1d scipy.interpolate._bsplines.BSpline
collections.OrderedDict collections.defaultdict builtins.set builtins.frozenset builtins.bytearray builtins.slice
builtins.complex builtins.object builtins.list builtins.dict builtins.tuple builtins.int builtins.float builtins.bool
builtins.str builtins.bytes builtins.range copyreg._reconstructor copy_reg._reconstructor sklearn.tree._tree.Tree
sklearn.utils._bunch.Bunch sklearn.utils.Bunch sklearn.neighbors._kd_tree.KDTree64 sklearn.neighbors._kd_tree.KDTree32
sklearn.neighbors._kd_tree.KDTree sklearn.neighbors._kd_tree.newObj sklearn.neighbors._ball_tree.newObj
sklearn.neighbors._ball_tree.BallTree64 sklearn.neighbors._ball_tree.BallTree32 sklearn.neighbors._ball_tree.BallTree
sklearn.metrics._dist_metrics.newObj sklearn.metrics._dist_metrics.EuclideanDistance64
sklearn.metrics._dist_metrics.EuclideanDistance32 sklearn.metrics._dist_metrics.EuclideanDistance
sklearn.metrics._dist_metrics.ManhattanDistance64 sklearn.metrics._dist_metrics.MinkowskiDistance64
sklearn.metrics._dist_metrics.ChebyshevDistance64 sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor
sklearn._loss.loss.HalfBinomialLoss sklearn._loss.loss.HalfMultinomialLoss sklearn._loss.loss.HalfSquaredError
sklearn._loss.loss.ExponentialLoss sklearn._loss.loss.AbsoluteError sklearn._loss.loss.HuberLoss
sklearn._loss.loss.PinballLoss sklearn._loss.loss.HalfPoissonLoss sklearn._loss.loss.HalfGammaLoss
sklearn._loss._loss.CyHalfBinomialLoss sklearn._loss._loss.CyHalfMultinomialLoss
sklearn._loss._loss.CyHalfSquaredError sklearn._loss._loss.CyExponentialLoss sklearn._loss._loss.CyAbsoluteError
sklearn._loss._loss.CyHuberLoss sklearn._loss._loss.CyPinballLoss sklearn._loss._loss.CyHalfPoissonLoss
sklearn._loss._loss.CyHalfGammaLoss sklearn._loss._loss.__pyx_unpickle_CyHalfSquaredError
sklearn._loss._loss.__pyx_unpickle_CyHalfBinomialLoss sklearn._loss._loss.__pyx_unpickle_CyHalfMultinomialLoss
sklearn._loss._loss.__pyx_unpickle_CyExponentialLoss sklearn._loss._loss.__pyx_unpickle_CyAbsoluteError
sklearn._loss._loss.__pyx_unpickle_CyHalfPoissonLoss sklearn._loss._loss.__pyx_unpickle_CyHalfGammaLoss
sklearn._loss.link.LogitLink sklearn._loss.link.MultinomialLogit sklearn._loss.link.IdentityLink
sklearn._loss.link.LogLink sklearn._loss.link.HalfLogitLink sklearn._loss.link.Interval
sklearn.linear_model._sgd_fast.Hinge sklearn.linear_model._sgd_fast.Log sklearn.linear_model._sgd_fast.SquaredLoss
sklearn.linear_model._sgd_fast.ModifiedHuber sklearn.linear_model._sgd_fast.SquaredHinge
sklearn.linear_model._sgd_fast.Huber sklearn.linear_model._sgd_fast.EpsilonInsensitive
sklearn.linear_model._sgd_fast.SquaredEpsilonInsensitive sklearn.compose._column_transformer._RemainderColsList
numpy.random.bit_generator.SeedSequence numpy.random.bit_generator.__pyx_unpickle_SeedSequence
sklearn._loss.loss.HalfTweedieLossIdentity sklearn._loss._loss.CyHalfTweedieLossIdentity
sklearn._loss.loss.HalfTweedieLoss sklearn._loss._loss.CyHalfTweedieLoss
sklearn.neural_network._stochastic_optimizers.AdamOptimizer sklearn.neural_network._stochastic_optimizers.SGDOptimizer
sklearn.model_selection._split.StratifiedKFold sklearn.model_selection._split.KFold
sklearn.model_selection._split.ShuffleSplit sklearn.model_selection._split.StratifiedShuffleSplit
sklearn.model_selection._split.RepeatedKFold sklearn.model_selection._split.RepeatedStratifiedKFold
sklearn.metrics._scorer._PassthroughScorer sklearn.utils._metadata_requests.MetadataRequest
sklearn.utils._metadata_requests.MethodMetadataRequest
sklearn.cluster._bisect_k_means._BisectingTree sklearn.cluster._kmeans._kmeans_single_lloyd
sklearn.feature_selection._univariate_selection.f_classif
sklearn.feature_selection._univariate_selection.f_regression sklearn.feature_selection._univariate_selection.chi2
sklearn.gaussian_process.kernels.ConstantKernel sklearn.gaussian_process.kernels.Product
sklearn.gaussian_process.kernels.Sum sklearn.gaussian_process.kernels.RBF sklearn.gaussian_process.kernels.WhiteKernel
sklearn.gaussian_process.kernels.Matern sklearn.gaussian_process.kernels.DotProduct
sklearn.calibration._CalibratedClassifier sklearn.calibration._SigmoidCalibration
sklearn.calibration._TemperatureScaling sklearn.impute._iterative._ImputerTriplet
sklearn.metrics._scorer._Scorer sklearn.metrics._scorer._CurveScorer sklearn.metrics._scorer._MultimetricScorer
pandas._libs.tslibs.timestamps._unpickle_timestamp datetime.timezone datetime.timedelta datetime.datetime datetime.date
sklearn.compose._column_transformer.make_column_selector numpy.number numpy.integer numpy.floating numpy.generic
"""
_BOOSTERS = """
xgboost.core.Booster xgboost.sklearn.XGBClassifier xgboost.sklearn.XGBRegressor xgboost.sklearn.XGBRFClassifier
xgboost.sklearn.XGBRFRegressor xgboost.sklearn.XGBRanker lightgbm.basic.Booster lightgbm.sklearn.LGBMClassifier
lightgbm.sklearn.LGBMRegressor lightgbm.sklearn.LGBMRanker
"""
_SCALARS = """
bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128 str_ bytes_
intp object_ datetime64 timedelta64 longlong ulonglong intc uintc
"""

_FUNCTIONS = """
absolute arccos arccosh arcsin arcsinh arctan arctanh cbrt ceil conjugate cos cosh deg2rad degrees exp exp2 expm1 fabs
floor isnan log log10 log1p log2 logical_not negative positive rad2deg radians reciprocal rint sign sin sinh sqrt square
tan tanh trunc
"""
_OTHER_FUNCTIONS = """
add angle around arctan2 bitwise_count clip copysign cumsum diff divide float_power floor_divide fmax fmin fmod
frexp heaviside hypot i0 imag invert isfinite isinf isnat maximum minimum mod modf multiply nan_to_num power real
remainder round signbit sinc spacing subtract true_divide fix unwrap
"""
# Where pickle finds a function of numpy, which does not know its own module.
_MODULES_OF_FUNCTIONS = (
    "numpy",
    *(f"numpy.{c}.{m}" for c in ("core", "_core") for m in ("_multiarray_umath", "umath")),
)

ESTIMATOR_PACKAGES = frozenset(_PACKAGES.split())
FUNCTIONS = frozenset(_FUNCTIONS.split())
"""Functions of numpy of one number that a model may apply."""
FUNCTIONS_WITHOUT_PATH = frozenset(
    f"{module}.{n}" for module in _MODULES_OF_FUNCTIONS for n in _OTHER_FUNCTIONS.split()
)
"""Others of numpy that people give to a FunctionTransformer: they are refused for what they are."""


EXACT = (
    frozenset([*_OBJECTS.split(), *_BOOSTERS.split()])
    | {f"numpy.{name}" for name in _SCALARS.split()}
    | {f"{module}.{name}" for module in _MODULES_OF_FUNCTIONS for name in _FUNCTIONS.split()}
)
"""Classes that fitted estimators hold besides estimators, what rebuilds arrays, and numpy's functions of one number.

They compute, and touch nothing.
"""
