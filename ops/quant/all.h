// The headers of all formats, without the runtime dispatch of ops/quant/formats.h: for kernel units.
#pragma once

#include "ops/quant/floats.h"
#include "ops/quant/iq4_nl.h"
#include "ops/quant/iq4_xs.h"
#include "ops/quant/q2_k.h"
#include "ops/quant/q3_k.h"
#include "ops/quant/q4_0.h"
#include "ops/quant/q4_1.h"
#include "ops/quant/q4_k.h"
#include "ops/quant/q5_0.h"
#include "ops/quant/q5_1.h"
#include "ops/quant/q5_k.h"
#include "ops/quant/q6_k.h"
#include "ops/quant/q8_0.h"
