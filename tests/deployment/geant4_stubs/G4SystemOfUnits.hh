#pragma once
namespace CLHEP {
static constexpr double mm = 1, MeV = 1, GeV = 1000, ns = 1;
}
using CLHEP::GeV;
using CLHEP::MeV;
using CLHEP::mm;
using CLHEP::ns;
