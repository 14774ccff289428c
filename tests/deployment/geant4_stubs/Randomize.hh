#pragma once
namespace CLHEP {
class HepRandom {
public:
    static void setTheSeed(long seed, int luxury = 3);
};
}  // namespace CLHEP
#define G4Random CLHEP::HepRandom
