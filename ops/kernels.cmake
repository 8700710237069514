# tandem_kernels(target NAME name HEADER path INSTANTIATE text) adds one source an instruction set to `target`. Each includes
# HEADER (relative to the root) and explicitly instantiates `text`, in which ISA stands for the tag, e.g.
#   tandem_kernels(tandem_ops NAME norm HEADER ops/cpu/kernels/norm_impl.h
#                  INSTANTIATE "const NormKernels& norm_kernels<ISA>()")
# `text` is in namespace tandem; the template and all that it instantiates must depend on the tag
# (ops/cpu/isa.h says why).
function(tandem_kernels target)
  cmake_parse_arguments(PARSE_ARGV 1 K "" "NAME;HEADER;INSTANTIATE" "")
  set(tags Generic)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    list(APPEND tags Avx2 Avx512)
  endif()
  set(flags_Generic -O2)  # -O3 takes four times as long over its arrays of lanes
  set(flags_Avx2 -mavx2 -mfma -mf16c)
  set(flags_Avx512 ${flags_Avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # gcc 12's own intrinsic headers trip these
    list(APPEND flags_Avx512 -Wno-uninitialized -Wno-maybe-uninitialized)
    # It would turn chains of integer additions into trees, whose leaves don't fit in 16 registers.
    list(APPEND flags_Avx2 -fno-tree-reassoc -fno-tree-ter)
  endif()
  foreach(tag IN LISTS tags)
    string(REGEX REPLACE "([<,] *)ISA([>,])" "\\1tandem::${tag}\\2" K_TEXT "${K_INSTANTIATE}")
    string(TOLOWER ${tag} suffix)
    set(unit ${CMAKE_CURRENT_BINARY_DIR}/kernels/${K_NAME}.${suffix}.cpp)
    configure_file(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/cpu/kernels/unit.cpp.in ${unit} @ONLY)
    set_source_files_properties(${unit} PROPERTIES COMPILE_OPTIONS "${flags_${tag}}")
    target_sources(${target} PRIVATE ${unit})
  endforeach()
endfunction()
